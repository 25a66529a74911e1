"""Let workers take from paused queues again."""

from __future__ import annotations

import argparse

from celeriac import wire
from celeriac.cli.opening import check_queues, open_broker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac resume`."""
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="default: every paused queue")


def run(args: argparse.Namespace) -> int:
    """Resume them."""
    with open_broker(args) as app:
        broker = app.broker
        paused = [name for name in args.queues or broker.queues() if broker.stats(name).paused]
        check_queues(app, [name for name in args.queues if name not in paused])
        for name in args.queues or paused:
            broker.resume(name)
            if not args.quiet:
                print(f"{name}: resumed")
    return wire.EXIT_OK
