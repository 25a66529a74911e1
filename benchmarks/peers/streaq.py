"""streaq with a hundred coroutines at once; `ttl=0` where no result is asked for.

It prefetches as many by default; uvloop, as it advises. Many tasks are sent by `enqueue_many`, a pipeline.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from peers import NAP, URL, journal, tally

LIBRARY = "streaq"
CANNOT = {"recycling": "no limit of tasks for a process"}

logging.getLogger("streaq").setLevel(logging.ERROR)
broker: Worker[None] = Worker(redis_url=URL, concurrency=100, anyio_kwargs={"use_uvloop": True})


@broker.task(ttl=0, silent=True)
async def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@broker.task(silent=True)
async def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@broker.task(ttl=0, silent=True)
async def nap() -> None:
    await asyncio.sleep(NAP)
    tally.add()


@broker.task(ttl=0, silent=True)
async def stamp(sent: float) -> None:
    journal.write(sent)


def _send(task: Any) -> Any:
    async def send(*args: Any, **kwargs: Any) -> None:
        await task.enqueue(*args, **kwargs)

    return send


SEND = {"scrape": _send(scrape), "add": _send(add), "nap": _send(nap), "stamp": _send(stamp)}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    async with broker:
        yield


async def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    for place in range(0, len(calls), 1000):
        await broker.enqueue_many([
            scrape.enqueue(number, **options) for number, options in calls[place : place + 1000]
        ])  # fmt: skip


def worker(children: int) -> list[list[str]]:
    return [[sys.executable, "-m", "streaq", "run", "peers.streaq:broker", "--workers", str(children)]]


def slots(count: int) -> list[list[str]]:
    return worker(1)
