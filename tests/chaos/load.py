"""The load: an application whose tasks write down each of their runs, and the calls that are sent of them.

A run appends one line where it begins and one where it ends, each with one write, to a file of its process. So the
lines are there whatever kills the process, and nobody needs a lock.

Workers import this module as their application; the environment says which broker, settings and folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celeriac import Celeriac, chain, context

FOLDER_VARIABLE, BROKER_VARIABLE, SETTINGS_VARIABLE = "CHAOS_FOLDER", "CHAOS_BROKER", "CHAOS_SETTINGS"
QUEUES = ("chaos-a", "chaos-b")

#: What is sent, and how often of a hundred calls. A chain is one call of `STEPS` tasks.
WEIGHTS = {
    "short": 50.0, "early": 12.0, "awaited": 10.0, "delayed": 8.0, "retried": 7.0, "chained": 6.0, "failing": 3.0,
    "long": 2.7, "early_long": 1.0, "stumbles": 0.2, "poison": 0.1,
}  # fmt: skip
STEPS = 3
#: Kinds that are acknowledged before they run.
EARLY = frozenset({"early", "early_long"})
#: Kinds that kill the process that runs them.
DEADLY = frozenset({"stumbles", "poison"})


@dataclass(frozen=True)
class Call:
    """One call to be made, `at` seconds after the start. `ids` are those of its tasks, in the order of a chain."""

    at: float
    kind: str
    ids: tuple[str, ...]
    value: float
    countdown: float
    queue: str


def plan(seed: int, count: int, seconds: float) -> list[Call]:
    """The calls of a seed, in the order of time: about `count` tasks within `seconds`."""
    draw = random.Random(f"load {seed}")
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    calls: list[Call] = []
    tasks = 0
    while tasks < count:
        kind = draw.choices(kinds, weights)[0]
        steps = STEPS if kind == "chained" else 1
        ids = tuple(str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(steps))
        value = draw.choice((0.3, 0.5, 1.0, 2.0, 4.0)) if "long" in kind else float(draw.randrange(3))
        countdown = draw.uniform(0.1, 4.0) if kind == "delayed" else 0.0
        calls.append(Call(draw.uniform(0.0, seconds), kind, ids, value, countdown, draw.choice(QUEUES)))
        tasks += steps
    return sorted(calls, key=lambda call: call.at)


def send(app: Celeriac, call: Call) -> None:
    """Make a call. Raises: OperationalError: it is not known to be stored."""
    tasks = app.tasks
    if call.kind == "chained":
        steps = [
            tasks["chaos.step"].s(*([0] if n == 0 else [])).set(task_id=task_id, queue=call.queue)
            for n, task_id in enumerate(call.ids)
        ]
        chain(*steps, app=app).apply_async()
        return
    name = "short" if call.kind == "delayed" else call.kind
    options: dict[str, Any] = {"task_id": call.ids[0], "queue": call.queue}
    if call.countdown:
        options["countdown"] = call.countdown
    tasks[f"chaos.{name}"].apply_async((call.value,), **options)


# -- in a worker ------------------------------------------------------------------------------------------------


class Diary:
    """The file of this process; a new one after a fork."""

    def __init__(self) -> None:
        self._pid = 0
        self._file = -1

    def write(self, what: str) -> None:
        """One line: that the run of now has got this far."""
        pid = os.getpid()
        if self._pid != pid:
            path = f"{os.environ[FOLDER_VARIABLE]}/runs-{pid}"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            # Last, because several threads may come here at once.
            self._pid = pid
        request = context.current_task().request
        delivery = request.delivery
        line = (
            f"{what} {request.id} {request.hostname} {pid} {time.monotonic():.6f} "
            f"{delivery.fence} {request.retries} {delivery.crashes}\n"
        )
        os.write(self._file, line.encode())


diary = Diary()


def short(value: float) -> float:
    diary.write("begin")
    diary.write("end")
    return value


def long(seconds: float) -> float:
    diary.write("begin")
    time.sleep(seconds)
    diary.write("end")
    return seconds


async def awaited(value: float) -> float:
    diary.write("begin")
    await asyncio.sleep(0.1 * value)
    diary.write("end")
    return value


def retried(self: Any, times: float) -> int:
    diary.write("begin")
    if self.request.retries < times:
        diary.write("end")
        raise self.retry(countdown=0.2 * self.request.retries)
    diary.write("end")
    return int(self.request.retries)


def step(value: int) -> int:
    diary.write("begin")
    diary.write("end")
    return value + 1


def failing(value: float) -> None:
    diary.write("begin")
    diary.write("end")
    raise ValueError(value)


def stumbles(value: float) -> float:
    """Kills its process, unless it has done so before."""
    if context.current_task().request.delivery.crashes:
        diary.write("begin")
        diary.write("end")
        return value
    _die(value)
    return value


def poison(value: float) -> None:
    """Kills its process, always."""
    _die(value)


def _die(how: float) -> None:
    diary.write("begin")
    if how == 0:
        diary.write("die")
        os._exit(7)
    diary.write("die")
    os.kill(os.getpid(), signal.SIGKILL if how == 1 else signal.SIGSEGV)
    time.sleep(10)


def make_app(broker: str, **settings: Any) -> Celeriac:
    """The application of the tasks above; every one keeps its result."""
    app = Celeriac("chaos", broker=broker, task_ignore_result=False, **settings)
    for function in (short, long, awaited, step, failing, stumbles, poison):
        app.task(name=f"chaos.{function.__name__}")(function)
    app.task(name="chaos.early", acks_late=False)(short)
    app.task(name="chaos.early_long", acks_late=False)(long)
    app.task(name="chaos.retried", bind=True, max_retries=5)(retried)
    return app


def tasks_of(calls: Sequence[Call]) -> int:
    """How many tasks these calls are."""
    return sum(len(call.ids) for call in calls)


if BROKER_VARIABLE in os.environ:
    app = make_app(os.environ[BROKER_VARIABLE], **json.loads(os.environ[SETTINGS_VARIABLE]))
