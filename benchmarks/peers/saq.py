"""SAQ with hiredis and a hundred jobs at once (its default is ten).

The connection pool has room for a hundred jobs that end together. `ttl=-1` keeps nothing of a job that succeeded.
`dequeue_timeout` and polling stay as they are: it waits in Redis.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import from_url
from saq import Queue
from saq.queue.redis import RedisQueue

from peers import NAP, URL, journal, tally

LIBRARY = "saq"
CANNOT = {"recycling": "no limit of tasks for a process"}

queue: Queue = RedisQueue(from_url(URL, max_connections=300))


async def scrape(ctx: Any, *, number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


async def add(ctx: Any, *, x: int, y: int) -> int:
    tally.add()
    return x + y


async def nap(ctx: Any) -> None:
    await asyncio.sleep(NAP)
    tally.add()


async def stamp(ctx: Any, *, sent: float) -> None:
    journal.write(sent)


settings = {"queue": queue, "functions": [scrape, add, nap, stamp], "concurrency": 100}


async def _scrape(number: int, **options: Any) -> None:
    await queue.enqueue("scrape", ttl=-1, number=number, **options)


async def _add(x: int, y: int) -> None:
    await queue.enqueue("add", x=x, y=y)


async def _nap() -> None:
    await queue.enqueue("nap", ttl=-1)


async def _stamp(sent: float) -> None:
    await queue.enqueue("stamp", ttl=-1, sent=sent)


SEND = {"scrape": _scrape, "add": _add, "nap": _nap, "stamp": _stamp}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await queue.connect()
    yield
    await queue.disconnect()


async def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    for place in range(0, len(calls), 100):
        await asyncio.gather(*(_scrape(number, **options) for number, options in calls[place : place + 100]))


def worker(children: int) -> list[list[str]]:
    return [[sys.executable, "-m", "saq", "peers.saq.settings", "--workers", str(children), "--quiet"]]


def slots(count: int) -> list[list[str]]:
    return worker(1)
