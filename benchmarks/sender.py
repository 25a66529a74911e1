"""What a benchmark asks of a system, in a process of its own with that system's Python. Prints one line of JSON.

python sender.py describe PEER            its version, its commands, what it cannot do
python sender.py one PEER COUNT           calls of `scrape`, one by one: messages per second
python sender.py bulk PEER COUNT          the same by its way to send many
python sender.py fill PEER TASK COUNT     calls of any task, as fast as it can
python sender.py pace PEER COUNT GAP      calls of `stamp`, with random pauses around GAP seconds between them
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

ARGUMENTS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "add": lambda place: (place, 1),
    "nap": lambda place: (),
    "stamp": lambda place: (time.monotonic(),),
}


def call(place: int) -> tuple[int, dict[str, Any]]:
    """Arguments of call number `place` of `scrape`."""
    return 1000000 + place, {"url": f"https://example.com/items/{place}/reviews", "depth": 2}


def _is_async(peer: ModuleType) -> bool:
    return peer.opened is not None


def one(peer: ModuleType, count: int) -> float:
    """Messages per second, sent one by one. The first is not counted: it connects."""
    calls, send = [call(place) for place in range(count)], peer.SEND["scrape"]
    if not _is_async(peer):
        send(calls[0][0], **calls[0][1])
        gc.freeze()
        started = time.perf_counter()
        for number, options in calls[1:]:
            send(number, **options)
        return (count - 1) / (time.perf_counter() - started)

    async def send_all() -> float:
        async with peer.opened():
            await send(calls[0][0], **calls[0][1])
            gc.freeze()
            started = time.perf_counter()
            for number, options in calls[1:]:
                await send(number, **options)
            return (count - 1) / (time.perf_counter() - started)

    return asyncio.run(send_all())


def bulk(peer: ModuleType, count: int) -> float:
    """Messages per second by the system's way to send many; nothing where there is none."""
    calls = [call(place) for place in range(count)]
    if not _is_async(peer):
        peer.SEND["scrape"](calls[0][0], **calls[0][1])
        gc.freeze()
        started = time.perf_counter()
        peer.send_many(calls[1:])
        return (count - 1) / (time.perf_counter() - started)

    async def send_all() -> float:
        async with peer.opened():
            await peer.SEND["scrape"](calls[0][0], **calls[0][1])
            gc.freeze()
            started = time.perf_counter()
            await peer.send_many(calls[1:])
            return (count - 1) / (time.perf_counter() - started)

    return asyncio.run(send_all())


def fill(peer: ModuleType, task: str, count: int) -> int:
    """Send so many, without looking at the clock."""
    if task == "scrape":
        (bulk if peer.send_many else one)(peer, count)
        return count
    send, arguments = peer.SEND[task], ARGUMENTS[task]
    if _is_async(peer):

        async def send_all() -> None:
            async with peer.opened():
                for place in range(count):
                    await send(*arguments(place))

        asyncio.run(send_all())
    else:
        for place in range(count):
            send(*arguments(place))
    return count


def pace(peer: ModuleType, count: int, gap: float) -> int:
    """One after the other to workers that wait; the first five, which connect, say so by a time of nought."""
    send, chance = peer.SEND["stamp"], random.Random(7)
    pauses = [gap * (0.5 + chance.random()) for _ in range(count + 5)]
    if _is_async(peer):

        async def send_all() -> None:
            async with peer.opened():
                for place, pause in enumerate(pauses):
                    await asyncio.sleep(pause)
                    await send(time.monotonic() if place >= 5 else 0.0)

        asyncio.run(send_all())
    else:
        for place, pause in enumerate(pauses):
            time.sleep(pause)
            send(time.monotonic() if place >= 5 else 0.0)
    return count


def describe(peer: ModuleType) -> dict[str, Any]:
    """What the measuring process must know, which cannot import this system."""
    shapes: dict[str, Any] = {
        "one": peer.worker(1),
        "two": peer.worker(2),
        "eight": peer.worker(8),
        "keeper": getattr(peer, "keeper", lambda: peer.worker(1))(),
    }
    if "naps" not in peer.CANNOT:
        shapes["slots"] = peer.slots(100)
    if "recycling" not in peer.CANNOT:
        shapes["recycling"] = peer.recycling(4)
    return {"version": version(peer.LIBRARY), "cannot": peer.CANNOT, "commands": shapes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("deed", choices=["describe", "one", "bulk", "fill", "pace"])
    parser.add_argument("peer")
    parser.add_argument("numbers", nargs="*")
    args = parser.parse_args()
    peer = import_module(f"peers.{args.peer}")
    match args.deed, args.numbers:
        case "describe", []:
            answer: Any = describe(peer)
        case "one", [count]:
            answer = one(peer, int(count))
        case "bulk", [count]:
            answer = bulk(peer, int(count))
        case "fill", [task, count]:
            answer = fill(peer, task, int(count))
        case "pace", [count, gap]:
            answer = pace(peer, int(count), float(gap))
        case _:
            parser.error(f"{args.deed} takes other arguments; see --help")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
