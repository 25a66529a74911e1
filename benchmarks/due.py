"""How late delayed messages are given out when many are due in each second (P6), on any broker.

    python benchmarks/due.py URL [--rate 1000] [--seconds 3]

They are sent at once, due one after the other from four seconds later on; one consumer takes and acknowledges them. The
queue is new, and stays, empty: name a place that can be dropped.
"""

from __future__ import annotations

import argparse
import secrets
import struct
import time

from celeriac.brokers import connect
from celeriac.brokers.contract import Ack, Outgoing, Settlement
from celeriac.message import VERSION, new_key

#: Seconds from sending to the first that is due, and after which what has not come is missing.
AHEAD, PATIENCE = 4.0, 60.0
MOMENT = struct.Struct("=d")


def outgoing(queue: str, due_at: float) -> Outgoing:
    """A message that says when it is due."""
    return Outgoing(queue, VERSION + new_key() + MOMENT.pack(due_at), due_at=due_at)


def lateness(url: str, rate: int, seconds: float) -> list[float]:
    """Of each message, in seconds; the least first."""
    broker, queue, count = connect(url), f"due-{secrets.token_hex(4)}", int(rate * seconds)
    consumer = broker.consumer([queue], "due", lease=60.0, max_deliveries=3)
    try:
        # The first delay at a broker makes what delays are kept in.
        broker.send([outgoing(queue, time.time() + 0.1)], PATIENCE)
        found: list[float] = []
        first, until = time.time() + AHEAD, time.monotonic() + AHEAD + seconds + PATIENCE
        broker.send([outgoing(queue, first + n / rate) for n in range(count)], PATIENCE)
        while len(found) < count + 1 and time.monotonic() < until:
            taken = consumer.take(100, 1.0)
            now = time.time()
            found += [now - MOMENT.unpack(one.data[17:])[0] for one in taken]
            consumer.settle([Settlement(one, Ack()) for one in taken])
        if len(found) < count + 1:
            raise SystemExit(f"{count + 1 - len(found)} of {count + 1} messages did not come")
        return sorted(found)
    finally:
        consumer.close()
        broker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--rate", type=int, default=1000, help="messages that are due in a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="for so long")
    args = parser.parse_args()
    late = lateness(args.url, args.rate, args.seconds)
    told = {"median": late[len(late) // 2], "99 of 100": late[len(late) * 99 // 100], "most": late[-1]}
    print(f"{len(late)} messages, {args.rate} due in a second; late by (ms): " + ", ".join(
        f"{name} {value * 1000:.0f}" for name, value in told.items()
    ))  # fmt: skip


if __name__ == "__main__":
    main()
