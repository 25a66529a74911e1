"""What it takes to wait for very many results: megabytes and connections of the producer that awaits them.

    python benchmarks/results.py [--count 100000] [--way group|delay]

Sends so many tasks, lets another process store their results while they are awaited, and looks at the producer (PSS)
before, while and after. Needs redis-server; starts and ends one of its own.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celeriac import Celeriac, group, stored
from celeriac.brokers.contract import Record
from celeriac.result import ResultSet
from celeriac.stored import Stored
from memory import pss
from plain_redis import Redis
from rig import private_redis

TOGETHER = 1000
QUIET = 3.0
LIFETIME = 3600.0


def an_app(port: int) -> Celeriac:
    return Celeriac("results", broker=f"redis://127.0.0.1:{port}/0", task_ignore_result=False)


def send(app: Celeriac, way: str, count: int) -> Any:
    """The results of so many calls."""

    @app.task(name="results.same")
    def same(number: int) -> int:
        return number

    # So many that what is made once is made.
    group(same.s(n) for n in range(2 * TOGETHER)).delay()
    gc.collect()
    yield pss(os.getpid())
    if way == "group":
        yield group(same.s(n) for n in range(count)).delay()
    else:
        yield ResultSet([same.delay(n) for n in range(count)])


def answer(port: int, file: str) -> None:
    """As a worker that runs nothing else would: store a result for each id of the file, some time from now."""
    time.sleep(QUIET)
    app = an_app(port)
    with open(file, "rb") as ids:
        number = 0
        while keys := ids.read(16 * TOGETHER):
            records: list[Record] = []
            for start in range(0, len(keys), 16):
                data = stored.encode(Stored("SUCCESS", number, time.time()))
                records.append(Record(keys[start : start + 16], data, LIFETIME))
                number += 1
            app.backend.put(records)


class Observer(threading.Thread):
    """The most that this process and its connections come to."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(daemon=True)
        self._redis = redis
        self._is_over = threading.Event()
        self.memory = 0.0
        self.connections = 0

    def run(self) -> None:
        while not self._is_over.wait(0.1):
            self.memory = max(self.memory, pss(os.getpid()))
            self.connections = max(self.connections, ours(self._redis))

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def ours(redis: Redis) -> int:
    """Sockets of this process, but for the one that asks."""
    sockets = [
        entry
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and "socket:" in os.readlink(entry)
    ]
    return len(sockets) - 1


def subscriptions(redis: Redis) -> int:
    return len(redis.call("PUBSUB", "CHANNELS"))


def measure(port: int, way: str, count: int) -> None:
    app, redis = an_app(port), Redis(port)
    sending = send(app, way, count)
    before = next(sending)
    began = time.monotonic()
    results = next(sending)
    gc.collect()
    held = pss(os.getpid()) - before
    print(f"{count:,} sent within {time.monotonic() - began:.1f} s ({way}); their results take {held:.1f} MB")
    file = f"/tmp/celeriac-results-{os.getpid()}"
    with open(file, "wb") as ids:
        for leaf in results.leaves():
            ids.write(leaf.key)
    command = [sys.executable, __file__, "--answer", file, "--port", str(port)]
    observer = Observer(redis)
    with subprocess.Popen(command) as worker:
        threading.Timer(
            QUIET - 1, lambda: print(f"while none is there {pss(os.getpid()) - before:.1f} MB")
        ).start()
        observer.start()
        began = time.monotonic()
        values = results.get(timeout=600)
        took = time.monotonic() - began - QUIET
        observer.stop()
        worker.wait(60)
    os.unlink(file)
    assert values == list(range(count))
    most = observer.memory - before
    print(
        f"all there after {took:.1f} s more; {most:.1f} MB at most with the values, "
        f"{most / count * 100_000:.1f} MB for each 100,000; {observer.connections} connections, "
        f"{subscriptions(redis)} subscriptions left over"
    )
    app.close()
    redis.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--way", choices=("group", "delay"), help="both, one after the other, unless given")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer(given.port, given.answer)
        return
    if given.way is None:
        for way in ("group", "delay"):
            subprocess.run([sys.executable, __file__, "--count", str(given.count), "--way", way], check=True)
        return
    with private_redis() as port:
        measure(port, given.way, given.count)


if __name__ == "__main__":
    main()
