"""The asyncio pool and edge: memory of a thousand waiting coroutines, and what sending does to an event loop.

    python benchmarks/asyncio_pool.py [--runs 1000] [--sends 1000]

Needs redis-server; starts and ends one of its own. With uvloop installed the child uses it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from celeriac import Celeriac
from memory import pss, tree
from plain_redis import Redis
from rig import HERE, private_redis, until

app = Celeriac("asyncio_pool", broker=os.environ.get("BENCH_REDIS", "memory://"), task_ignore_result=True)
PROBE_EVERY = 0.001


@app.task(name="asyncio_pool.waits")
async def waits(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(name="asyncio_pool.nothing")
def nothing(number: int) -> None: ...


# -- memory -----------------------------------------------------------------------------------------------------


def measure_memory(port: int, runs: int) -> None:
    """PSS of the worker's processes, idle and with that many coroutines asleep."""
    redis = Redis(port)
    with tempfile.NamedTemporaryFile() as log:
        command = [
            sys.executable,
            "-m",
            "celeriac",
            "-A",
            "asyncio_pool",
            "worker",
            "-P",
            "asyncio",
            "-c",
            str(runs),
        ]
        environ = {**os.environ, "PYTHONPATH": str(HERE)}
        worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            nothing.delay(0)
            until(lambda: stats().running == stats().ready == 0, 30, "the worker runs nothing")
            time.sleep(1)
            show("idle", worker.pid)
            began = time.monotonic()
            asyncio.run(send_all(waits.adelay, [20.0] * runs))
            until(lambda: stats().running == runs, 60, "they were not taken")
            print(f"{runs} coroutines began within {time.monotonic() - began:.2f} s of the first send")
            time.sleep(1)
            show(f"{runs} asleep", worker.pid)
            until(lambda: stats().running == 0, 60, "they did not end")
            show("idle again", worker.pid)
        finally:
            worker.terminate()
            worker.wait(30)
    redis.close()


def stats() -> Any:
    return app.broker.stats("celery")


def show(when: str, pid: int) -> None:
    supervisor, template, child = tree(pid)
    threads = len(list(Path(f"/proc/{child}/task").iterdir()))
    sizes = [pss(one) for one in (child, template, supervisor)]
    print(
        f"{when:>12}: child {sizes[0]:5.1f} MB with {threads} threads, template {sizes[1]:5.1f} MB, "
        f"supervisor {sizes[2]:5.1f} MB, together {sum(sizes):5.1f} MB"
    )


# -- the edge ---------------------------------------------------------------------------------------------------


async def send_all(send: Callable[[Any], Awaitable[Any]], values: list[Any]) -> None:
    await asyncio.gather(*(send(value) for value in values))


async def with_probe(work: Awaitable[Any]) -> tuple[float, list[float]]:
    """How long the work took, and by how much each tick of a timer on the same loop came late (seconds)."""
    late: list[float] = []

    async def probe() -> None:
        while True:
            due = time.perf_counter() + PROBE_EVERY
            await asyncio.sleep(PROBE_EVERY)
            late.append(time.perf_counter() - due)

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0.02)
    late.clear()
    began = time.perf_counter()
    await work
    took = time.perf_counter() - began
    await asyncio.sleep(2 * PROBE_EVERY)
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing
    return took, late


async def arriving(send: Callable[[Any], Awaitable[Any]], count: int) -> None:
    """As requests come to a web application: some in each turn of the loop, all waiting at once in the end."""
    sending: set[asyncio.Future[Any]] = set()
    for start in range(0, count, 20):
        sending |= {asyncio.ensure_future(send(n)) for n in range(start, start + 20)}
        await asyncio.sleep(0)
    await asyncio.gather(*sending)


async def yields(number: int) -> None:
    """The least that a coroutine that waits costs its loop."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def blocks(number: int) -> None:
    nothing.delay(number)


async def hops(number: int) -> None:
    await asyncio.to_thread(nothing.delay, number)


def measure_sends(port: int, count: int) -> None:
    """Send as many at once in each way: rate, round trips, and how late the loop came round."""
    redis = Redis(port)
    ways = {"nothing sent": yields, "adelay": nothing.adelay, "to_thread(delay)": hops, "delay": blocks}
    asyncio.run(send_all(nothing.adelay, [0, 1]))
    for shape, start in (
        ("arriving", arriving),
        ("one gather", lambda send, n: send_all(send, list(range(n)))),
    ):
        for name, way in ways.items():
            best: tuple[float, float, float, int] | None = None
            for _ in range(5):
                before = round_trips(redis)
                took, late = asyncio.run(with_probe(start(way, count)))
                late.sort()
                trips = round_trips(redis) - before
                found = (max(late), late[len(late) * 99 // 100], took, trips)
                best = min(best, found) if best else found
            assert best is not None
            print(
                f"{shape:>12} {name:<17} {count / best[2]:8.0f}/s {best[3]:5d} round trips; the loop came late "
                f"by {best[0] * 1000:6.1f} ms at most, {best[1] * 1000:6.1f} ms at 99 %"
            )
    redis.close()


def round_trips(redis: Any) -> int:
    lines = redis.call("INFO", "commandstats").decode().splitlines()
    return sum(
        int(line.split("calls=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_eval")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--sends", type=int, default=1000)
    given = parser.parse_args()
    with private_redis() as port:
        os.environ["BENCH_REDIS"] = f"redis://127.0.0.1:{port}/0"
        app.conf.broker_url = os.environ["BENCH_REDIS"]
        measure_memory(port, given.runs)
        measure_sends(port, given.sends)
        app.close()


if __name__ == "__main__":
    main()
