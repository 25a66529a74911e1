"""Show every queue: what waits, what runs, what is dead, how old the oldest waiting message is.

    celeriac -A proj queues
    celeriac -A proj queues --watch 5
    celeriac -b redis://localhost queues --json

"scheduled" waits for its time (countdown, eta, retries); "oldest" is how long the first has waited; "evicted" dead
letters were deleted for their age or their number (task_dead_letter_expires, task_dead_letter_max). "?": this broker
cannot tell; null in JSON.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from celeriac import clock, wire
from celeriac.brokers.abilities import Movable
from celeriac.brokers.contract import QueueStats
from celeriac.cli import show
from celeriac.cli.opening import check_queues, known_queues, open_broker

_COLUMNS: Final = ("queue", "ready", "scheduled", "running", "dead", "evicted", "oldest", "")
_NUMERIC: Final = ("ready", "scheduled", "running", "dead", "evicted", "oldest")
_CLEAR: Final = "\033[H\033[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac queues`."""
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="only these; default: all")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="again and again; default: every 2",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    with open_broker(args) as app:
        check_queues(app, args.queues)
        while True:
            names = args.queues or known_queues(app)
            stats = [app.broker.stats(name) for name in names]
            if args.watch is not None and sys.stdout.isatty():
                print(_CLEAR, end="")
            _print(stats, args)
            _tell_of_crates(app.broker, names)
            if args.watch is None:
                return wire.EXIT_OK
            sys.stdout.flush()
            clock.sleep(max(0.1, args.watch))


def _print(stats: list[QueueStats], args: argparse.Namespace) -> None:
    if args.json:
        show.json([_fields(one) for one in stats])
        return
    rows = [
        (
            one.queue, one.ready, _told(one.delayed), _told(one.running), one.dead, one.evicted,
            show.age(one.oldest_at), "paused" if one.paused else "",
        )
        for one in stats
    ]  # fmt: skip
    show.table(_COLUMNS, rows, numeric=_NUMERIC, color=not args.no_color)


def _told(count: int | None) -> int | str:
    return "?" if count is None else count


def _tell_of_crates(broker: Any, names: list[str]) -> None:
    """What a move has taken and not brought to its end is in no column."""
    for name in names if isinstance(broker, Movable) else ():
        if (crate := broker.pack(name, "", 0)) is not None:
            count = show.count(len(crate.parcels), "message")
            print(
                f"{count} of {name} are on their way to {crate.target}: `celeriac move` is at work, or to be "
                "run again.",
                file=sys.stderr,
            )


def _fields(one: QueueStats) -> dict[str, Any]:
    oldest = None if one.oldest_at is None else round(max(0.0, clock.now() - one.oldest_at), 3)
    return {
        "queue": one.queue, "ready": one.ready, "scheduled": one.delayed, "running": one.running,
        "dead": one.dead, "evicted": one.evicted, "oldest_age": oldest, "paused": one.paused,
    }  # fmt: skip
