"""Let workers take nothing more from queues until `celeriac resume`. What runs goes on, and so does sending."""

from __future__ import annotations

import argparse

from celeriac import wire
from celeriac.cli.opening import check_queues, open_broker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac pause`."""
    parser.add_argument("queues", nargs="+", metavar="QUEUE")
    parser.add_argument("-f", "--force", action="store_true", help="also a queue that nobody knows yet")


def run(args: argparse.Namespace) -> int:
    """Pause them."""
    with open_broker(args) as app:
        if not args.force:
            check_queues(app, args.queues, " With --force it is paused all the same.")
        for name in args.queues:
            app.broker.pause(name)
            if not args.quiet:
                print(f"{name}: paused")
    return wire.EXIT_OK
