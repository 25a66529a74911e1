"""How a broker is measured by itself: rates of sending, taking and settling, and the time from send to take."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from celeriac.brokers.contract import Ack, Broker, Consumer, Outgoing, Record, Settlement
from celeriac.message import new_key

SENDER = """
import random, sys, time
from celeriac.brokers import connect
from celeriac.brokers.contract import Outgoing
broker = connect(sys.argv[1])
for _ in range(100):
    time.sleep(random.uniform(0.02, 0.3))
    broker.send([Outgoing(sys.argv[2], bytes(17) + repr(time.time()).encode())], 2.0)
"""


def outgoing() -> Outgoing:
    return Outgoing("q", b"\x01" + new_key() + b"x" * 80)


def rate(what: str, count: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"{what:44}{count / (time.perf_counter() - began):12,.0f} /s", flush=True)


def drain(consumer: Consumer, count: int, size: int, *, with_results: bool = False) -> None:
    while count > 0:
        taken = consumer.take(min(size, count), 0)
        records = [Record(delivery.key, b"r" * 60, 3600.0) for delivery in taken] if with_results else []
        consumer.settle([
            Settlement(delivery, Ack(), records=records[place : place + 1])
            for place, delivery in enumerate(taken)
        ])  # fmt: skip
        count -= len(taken)


def rates(broker: Broker, mode: str = "", piles: int = 9) -> Consumer:
    """Rates of all that is done with messages, on the queue "q"; then so many times 100,000 wait. Returns who took."""
    batch = [outgoing() for _ in range(100_000)]
    rate(f"{mode}send, one at a time", 2_000, lambda: [broker.send([outgoing()], 2.0) for _ in range(2_000)])
    rate(f"{mode}send, batches of 100", 20_000, lambda: [broker.send(batch[:100], 2.0) for _ in range(200)])
    rate(f"{mode}send, 100,000 in one call", 100_000, lambda: broker.send(batch, 60.0))
    consumer = broker.consumer(["q"], "owner", lease=30.0, max_deliveries=3)
    rate(f"{mode}take and settle, one at a time", 1_000, lambda: drain(consumer, 1_000, 1))
    rate(f"{mode}take and settle, batches of 100", 20_000, lambda: drain(consumer, 20_000, 100))
    rate(
        f"{mode}the same with a result each", 20_000, lambda: drain(consumer, 20_000, 100, with_results=True)
    )
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(500):
            ready = broker.stats("q").ready
        print(f"{mode}stats with {ready:,} ready: {(time.perf_counter() - began) * 2e3:.0f} us", flush=True)
        for _ in range(piles):
            broker.send(batch, 60.0)
    return consumer


def latency(broker: Broker, url: str, queue: str) -> None:
    """From the send of another process to the take, a hundred times."""
    consumer = broker.consumer([queue], "awake", lease=60.0, max_deliveries=3)
    sender = subprocess.Popen([sys.executable, "-c", SENDER, url, queue])
    waits: list[float] = []
    while len(waits) < 100:
        for delivery in consumer.take(1, 5.0):
            waits.append(time.time() - float(delivery.data[17:]))
            consumer.settle([Settlement(delivery, Ack())])
    sender.wait()
    consumer.close()
    waits.sort()
    print(
        f"from send to take: median {statistics.median(waits) * 1e3:.1f} ms, longest {waits[-1] * 1e3:.1f} ms"
    )
