"""Rates, latency and idle cost of the SQLite broker, for docs/design/0003.

python benchmarks/sqlite_broker.py DIRECTORY     (a directory on the disk that is to be measured)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from celeriac.brokers import connect
from celeriac.brokers.contract import Ack, Broker, Consumer, Outgoing, Record, Settlement
from celeriac.message import new_key

SENDER = """
import random, sys, time
from celeriac.brokers import connect
from celeriac.brokers.contract import Outgoing
broker = connect(sys.argv[1])
for _ in range(100):
    time.sleep(random.uniform(0.02, 0.3))
    broker.send([Outgoing("q", bytes(17) + repr(time.time()).encode())], 2.0)
"""


def outgoing() -> Outgoing:
    return Outgoing("q", b"\x01" + new_key() + b"x" * 80)


def rate(mode: str, what: str, count: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"{mode:8}{what:44}{count / (time.perf_counter() - began):12,.0f} /s")


def drain(consumer: Consumer, count: int, size: int, *, with_results: bool = False) -> None:
    for _ in range(count // size):
        taken = consumer.take(size, 0)
        records = [Record(delivery.key, b"r" * 60, 3600.0) for delivery in taken] if with_results else []
        consumer.settle([
            Settlement(delivery, Ack(), records=records[place : place + 1])
            for place, delivery in enumerate(taken)
        ])  # fmt: skip


def rates(broker: Broker, mode: str) -> None:
    batch = [outgoing() for _ in range(100_000)]
    rate(mode, "send, one at a time", 2_000, lambda: [broker.send([outgoing()], 2.0) for _ in range(2_000)])
    rate(mode, "send, batches of 100", 20_000, lambda: [broker.send(batch[:100], 2.0) for _ in range(200)])
    rate(mode, "send, 100,000 in one call", 100_000, lambda: broker.send(batch, 30.0))
    consumer = broker.consumer(["q"], "owner", lease=30.0, max_deliveries=3)
    rate(mode, "take and settle, one at a time", 1_000, lambda: drain(consumer, 1_000, 1))
    rate(mode, "take and settle, batches of 100", 20_000, lambda: drain(consumer, 20_000, 100))
    rate(mode, "the same with a result each", 20_000, lambda: drain(consumer, 20_000, 100, with_results=True))
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(1_000):
            ready = broker.stats("q").ready
        print(f"{mode:8}stats with {ready:,} ready: {(time.perf_counter() - began) * 1e3:.1f} us")
        for _ in range(9):
            broker.send(batch, 60.0)
    consumer.close()


def latency(url: str) -> None:
    broker = connect(url)
    consumer = broker.consumer(["latency"], "idle", lease=30.0, max_deliveries=3)
    consumer.take(1, 0)
    used, began = time.process_time(), time.perf_counter()
    consumer.take(1, 10.0)
    share = (time.process_time() - used) / (time.perf_counter() - began)
    print(f"waiting: {share:.2%} of a core")
    consumer = broker.consumer(["q"], "awake", lease=60.0, max_deliveries=3)
    sender = subprocess.Popen([sys.executable, "-c", SENDER, url])
    waits: list[float] = []
    while len(waits) < 100:
        for delivery in consumer.take(1, 5.0):
            waits.append(time.time() - float(delivery.data[17:]))
            consumer.settle([Settlement(delivery, Ack())])
    sender.wait()
    waits.sort()
    print(
        f"from send to take: median {statistics.median(waits) * 1e3:.1f} ms, longest {waits[-1] * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", metavar="DIRECTORY")
    directory = parser.parse_args().directory
    for mode in ("full", "normal"):
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            rates(connect(f"sqlite:///{folder}/queue.sqlite?synchronous={mode}"), mode)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        latency(f"sqlite:///{folder}/queue.sqlite")


if __name__ == "__main__":
    main()
