"""RQ with its `SimpleWorker`, which runs jobs in the worker itself: the fastest it has, as its documentation says.

Its default worker forks for every job, which is slower for short ones (and is what the row of recycling
measures). `result_ttl=0` keeps nothing of a job that succeeded; for the row of results they are kept. Jobs are
acknowledged late in effect: a job of a dead worker is found by its heartbeat and fails. Logging is off.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from redis import Redis
from rq import Queue

from peers import NAP, URL, journal, tally

LIBRARY = "rq"
CANNOT = {"naps": "a slot is a process of its own: a hundred of them"}

queue = Queue("default", connection=Redis.from_url(URL))


def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


def add(x: int, y: int) -> int:
    tally.add()
    return x + y


def nap() -> None:
    time.sleep(NAP)
    tally.add()


def stamp(sent: float) -> None:
    journal.write(sent)


def _scrape(number: int, **options: Any) -> None:
    queue.enqueue(scrape, args=(number,), kwargs=options, result_ttl=0)


def _add(x: int, y: int) -> None:
    queue.enqueue(add, args=(x, y))


def _stamp(sent: float) -> None:
    queue.enqueue(stamp, args=(sent,), result_ttl=0)


SEND = {"scrape": _scrape, "add": _add, "stamp": _stamp}
opened = None


def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    # Pieces of a thousand: one transaction of everything would hold up the server.
    for place in range(0, len(calls), 1000):
        queue.enqueue_many([
            Queue.prepare_data(scrape, args=(number,), kwargs=options, result_ttl=0)
            for number, options in calls[place : place + 1000]
        ])  # fmt: skip


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "rq.cli", *words, "-u", URL, "-q"]


def worker(children: int) -> list[list[str]]:
    if children == 1:
        return [_command("worker", "-w", "rq.SimpleWorker", "default")]
    return [_command("worker-pool", "-n", str(children), "-w", "rq.worker.SimpleWorker", "default")]


def recycling(children: int) -> list[list[str]]:
    return [_command("worker-pool", "-n", str(children), "-w", "rq.worker.Worker", "default")]
