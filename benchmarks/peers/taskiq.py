"""Taskiq on a Redis list (`ListQueueBroker`), its fastest and smallest: a stream would acknowledge, at more cost.

So what a dead worker held is lost. Coroutine tasks, a hundred at once, which is its default; no pydantic for arguments
that need none (`--no-parse`), and uvloop. Results are kept for `add` only.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from peers import NAP, URL, journal, tally

LIBRARY = "taskiq"
CANNOT = {"recycling": "a process takes a hundred tasks at once, before it counts them"}

broker = ListQueueBroker(URL)
#: The same list; only `add` asks for its results.
keeping = ListQueueBroker(URL, queue_name="keeping").with_result_backend(RedisAsyncResultBackend(URL))


@broker.task
async def scrape(number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


@keeping.task
async def add(x: int, y: int) -> int:
    tally.add()
    return x + y


@broker.task
async def nap() -> None:
    await asyncio.sleep(NAP)
    tally.add()


@broker.task
async def stamp(sent: float) -> None:
    journal.write(sent)


SEND = {"scrape": scrape.kiq, "add": add.kiq, "nap": nap.kiq, "stamp": stamp.kiq}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    await keeping.startup()
    yield
    await broker.shutdown()
    await keeping.shutdown()


async def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    for place in range(0, len(calls), 100):
        await asyncio.gather(
            *(scrape.kiq(number, **options) for number, options in calls[place : place + 100])
        )


def _command(name: str, workers: int, *flags: str) -> list[list[str]]:
    return [[sys.executable, "-m", "taskiq", "worker", f"peers.taskiq:{name}", "--workers", str(workers),
             "--log-level", "ERROR", "--no-parse", *flags]]  # fmt: skip


def worker(children: int) -> list[list[str]]:
    return _command("broker", children)


def keeper() -> list[list[str]]:
    return _command("keeping", 1)


def slots(count: int) -> list[list[str]]:
    return _command("broker", 1, "--max-async-tasks", str(count))
