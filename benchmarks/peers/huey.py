"""Huey on a Redis list, with blocking reads, as its documentation advises for one priority; pickle is its default.

Processes for short tasks, threads for those that wait. A result of None is not stored by default. It takes a task off
the list before it runs: what a dead worker held is lost. It sends one by one.
"""

from __future__ import annotations

import sys
import time

from huey import RedisHuey

from peers import NAP, URL, journal, tally

LIBRARY = "huey"
CANNOT = {"bulk": "sends one by one only", "recycling": "replaces processes at its health checks only"}

huey = RedisHuey("bench", url=URL)


@huey.task()
def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@huey.task()
def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@huey.task()
def nap() -> None:
    time.sleep(NAP)
    tally.add()


@huey.task()
def stamp(sent: float) -> None:
    journal.write(sent)


SEND = {"scrape": scrape, "add": add, "nap": nap, "stamp": stamp}
opened = None
send_many = None


def _command(*flags: str) -> list[list[str]]:
    return [[sys.executable, "-m", "huey.bin.huey_consumer", "peers.huey.huey", "-q", "-g", "TERM", *flags]]


def worker(children: int) -> list[list[str]]:
    return _command("-k", "process", "-w", str(children))


def slots(count: int) -> list[list[str]]:
    return _command("-k", "thread", "-w", str(count))
