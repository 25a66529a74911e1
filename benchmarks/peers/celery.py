"""Celery as its guide to optimising advises for many short tasks.

`task_acks_late`, because Celeriac acknowledges late; a prefetch multiplier of 128 for short tasks; no results where
none is asked for; no gossip, mingle and heartbeats, which one worker does not need. Tasks that wait run on gevent. A
group sends one message after the other: Celery has no other way to send many.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from celery import Celery, group

from peers import NAP, URL, journal, tally

LIBRARY = "celery"
CANNOT: dict[str, str] = {}

app = Celery("peers.celery", broker=URL, backend=URL if URL.startswith("redis") else None)
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=128)


@app.task(name="tasks.scrape")
def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@app.task(name="tasks.add", ignore_result=False)
def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@app.task(name="tasks.nap")
def nap() -> None:
    time.sleep(NAP)
    tally.add()


@app.task(name="tasks.stamp")
def stamp(sent: float) -> None:
    journal.write(sent)


SEND = {"scrape": scrape.delay, "add": add.delay, "nap": nap.delay, "stamp": stamp.delay}
opened = None


def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    group(scrape.s(number, **options) for number, options in calls).apply_async()


def _command(*flags: str) -> list[list[str]]:
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [[sys.executable, "-m", "celery", "-A", "peers.celery", "worker", "-l", "ERROR", *alone, *flags]]


def worker(children: int) -> list[list[str]]:
    return _command("-c", str(children))


def slots(count: int) -> list[list[str]]:
    return _command("-P", "gevent", "-c", str(count), "--prefetch-multiplier", "4")


def recycling(children: int) -> list[list[str]]:
    return _command("-c", str(children), "--max-tasks-per-child", "1", "--prefetch-multiplier", "4")
