"""Dramatiq on Redis, a process with ten threads for short tasks and one with a hundred for those that wait.

Its guide counts throughput in threads: one thread in a process is slower than ten. It acknowledges late. Results are
stored where the actor says so. The Prometheus server is in no default any more and is not added. It sends one by one: a
group does too.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from peers import NAP, URL, journal, tally

LIBRARY = "dramatiq"
CANNOT = {"recycling": "no limit of tasks for a process"}

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor
def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@dramatiq.actor(store_results=True)
def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@dramatiq.actor
def nap() -> None:
    time.sleep(NAP)
    tally.add()


@dramatiq.actor
def stamp(sent: float) -> None:
    journal.write(sent)


SEND = {"scrape": scrape.send, "add": add.send, "nap": nap.send, "stamp": stamp.send}
opened = None


def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    dramatiq.group(scrape.message(number, **options) for number, options in calls).run()


def _command(processes: int, threads: int) -> list[list[str]]:
    return [[sys.executable, "-m", "dramatiq", "peers.dramatiq", "-p", str(processes), "-t", str(threads),
             "--skip-logging"]]  # fmt: skip


def worker(children: int) -> list[list[str]]:
    return _command(children, 10)


def slots(count: int) -> list[list[str]]:
    return _command(1, count)
