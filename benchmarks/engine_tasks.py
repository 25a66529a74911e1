"""The task that the engine benchmark sends, for Celeriac and for Celery: `BENCH_SYSTEM` says which."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from tally import Tally

SYSTEM = os.environ.get("BENCH_SYSTEM", "celeriac")
URL = os.environ["BENCH_REDIS"]

options: dict[str, Any] = {"broker": URL}
if SYSTEM == "celery":
    # Late acknowledgement and no results, as Celeriac's defaults are; prefetch as its documentation advises for
    # many short tasks.
    options |= {"task_acks_late": True, "task_ignore_result": True, "worker_prefetch_multiplier": 128}
app = import_module(SYSTEM).Celery("engine_tasks", **options)
tally = Tally()


@app.task(name="tasks.scrape")
def scrape(number: int, url: str = "", depth: int = 1) -> None:
    """Does nothing but count, in shared memory."""
    tally.add()


@app.task(name="tasks.add", ignore_result=False)
def add(x: int, y: int) -> int:
    """A small result to be stored."""
    tally.add()
    return x + y


def call(place: int) -> tuple[tuple[int], dict[str, Any]]:
    """Arguments of call number `place`."""
    return (1000000 + place,), {"url": f"https://example.com/items/{place}/reviews", "depth": 2}
