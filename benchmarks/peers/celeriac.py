"""Celeriac, with its default settings: late acknowledgement, no results unless a task asks for them.

The worker of a hundred slots has the pool `gevent` if this version has it, else `threads`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from celeriac import Celeriac, group
from celeriac.pools import POOLS
from peers import NAP, URL, journal, tally

LIBRARY = "celeriac"
CANNOT: dict[str, str] = {}

app = Celeriac("peers.celeriac", broker=URL)


@app.task
def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@app.task(ignore_result=False)
def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@app.task
def nap() -> None:
    time.sleep(NAP)
    tally.add()


@app.task
def stamp(sent: float) -> None:
    journal.write(sent)


SEND = {"scrape": scrape.delay, "add": add.delay, "nap": nap.delay, "stamp": stamp.delay}
opened = None


def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    group(scrape.s(number, **options) for number, options in calls).apply_async()


def _command(*flags: str) -> list[list[str]]:
    return [[sys.executable, "-m", "celeriac", "-A", "peers.celeriac", "worker", "-l", "ERROR", *flags]]


def worker(children: int) -> list[list[str]]:
    return _command("-c", str(children))


def slots(count: int) -> list[list[str]]:
    return _command("-P", "gevent" if "gevent" in POOLS else "threads", "-c", str(count))


def recycling(children: int) -> list[list[str]]:
    return _command("-c", str(children), "--max-tasks-per-child", "1")
