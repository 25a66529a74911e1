"""arq, a hundred jobs at once and a poll every 10 ms instead of every half second, by its settings `max_jobs` and
`poll_delay`: it starts jobs only when it polls, so both bound its rate. `keep_result=0` for what needs no result.

It knows no children: two are two workers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import ArqRedis, create_pool, func
from arq.connections import RedisSettings

from peers import NAP, URL, journal, tally

LIBRARY = "arq"
CANNOT = {"recycling": "no limit of tasks for a process"}


async def scrape(ctx: Any, number: int, url: str = "", depth: int = 1) -> None:
    tally.add()


async def add(ctx: Any, x: int, y: int) -> int:
    tally.add()
    return x + y


async def nap(ctx: Any) -> None:
    await asyncio.sleep(NAP)
    tally.add()


async def stamp(ctx: Any, sent: float) -> None:
    journal.write(sent)


class WorkerSettings:
    functions = [func(scrape, keep_result=0), add, func(nap, keep_result=0), func(stamp, keep_result=0)]
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = 100
    poll_delay = 0.01
    log_results = False


_pools: list[ArqRedis] = []


def _send(name: str) -> Any:
    async def send(*args: Any, **kwargs: Any) -> None:
        await _pools[0].enqueue_job(name, *args, **kwargs)

    return send


SEND = {name: _send(name) for name in ("scrape", "add", "nap", "stamp")}


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    _pools.append(await create_pool(WorkerSettings.redis_settings))
    yield
    await _pools.pop().aclose()


async def send_many(calls: list[tuple[int, dict[str, Any]]]) -> None:
    send = SEND["scrape"]
    for place in range(0, len(calls), 100):
        await asyncio.gather(*(send(number, **options) for number, options in calls[place : place + 100]))


def worker(children: int) -> list[list[str]]:
    return [[sys.executable, "-m", "arq", "peers.arq.WorkerSettings"]] * children


def slots(count: int) -> list[list[str]]:
    return worker(1)
