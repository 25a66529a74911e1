"""The load: an application whose tasks are short and long, retried, delayed, failing, limited, chained and large.

Workers import this module as their application; the environment says which broker and settings.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celeriac import Celeriac, chain, group
from celeriac.exceptions import SoftTimeLimitExceeded

BROKER_VARIABLE, SETTINGS_VARIABLE = "SOAK_BROKER", "SOAK_SETTINGS"

#: What is sent, and how often of a thousand calls.
WEIGHTS = {
    "quiet": 520, "short": 340, "failing": 40, "retried": 30, "delayed": 40, "chained": 10, "large": 12, "long": 6,
    "limited": 2,
}  # fmt: skip
#: How many tasks a call of a kind is, where that is not one.
STEPS = {"chained": 3}


def quiet(number: int) -> None:
    return None


def short(number: int) -> int:
    return number


def failing(number: int) -> None:
    raise ValueError(number)


def retried(self: Any, number: int) -> int:
    if self.request.retries < number % 3:
        raise self.retry(countdown=0.1 * self.request.retries)
    return number


def large(text: str) -> str:
    return text[::-1]


def long(seconds: float) -> None:
    time.sleep(seconds)


def limited(number: int) -> bool:
    """Runs into its soft time limit, and says so."""
    until = time.monotonic() + 5.0
    try:
        while time.monotonic() < until:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return True
    return False


def make_app(broker: str, **settings: Any) -> Celeriac:
    """The application of the tasks above; all but `quiet` keep their results."""
    app = Celeriac("soak", broker=broker, task_ignore_result=False, **settings)
    for function in (short, failing, large, long):
        app.task(name=f"soak.{function.__name__}")(function)
    app.task(name="soak.quiet", ignore_result=True)(quiet)
    app.task(name="soak.retried", bind=True, max_retries=5)(retried)
    app.task(name="soak.limited", soft_time_limit=0.2, time_limit=10.0)(limited)
    return app


def signature(app: Celeriac, kind: str, number: int, queue: str) -> Any:
    """One call of that kind."""
    tasks = app.tasks
    match kind:
        case "delayed":
            made = tasks["soak.short"].s(number).set(countdown=0.2 + number % 20 / 10)
        case "chained":
            steps = [tasks["soak.short"].si(number).set(queue=queue) for _ in range(STEPS[kind])]
            return chain(*steps, app=app)
        case "large":
            made = tasks["soak.large"].s(f"{number:06}" * 5000)
        case "long":
            made = tasks["soak.long"].s(0.15 + number % 4 / 10)
        case _:
            made = tasks[f"soak.{kind}"].s(number)
    return made.set(queue=queue)


def send(app: Celeriac, kinds: list[str], number: int, queue: str) -> int:
    """Send calls of these kinds; `number` makes them differ. Returns how many tasks they are."""
    calls = [signature(app, kind, number + place, queue) for place, kind in enumerate(kinds)]
    plain = [call for call, kind in zip(calls, kinds, strict=True) if kind != "chained"]
    group(plain, app=app).apply_async()
    for call, kind in zip(calls, kinds, strict=True):
        if kind == "chained":
            call.apply_async()
    return sum(STEPS.get(kind, 1) for kind in kinds)


if BROKER_VARIABLE in os.environ:
    app = make_app(os.environ[BROKER_VARIABLE], **json.loads(os.environ[SETTINGS_VARIABLE]))
