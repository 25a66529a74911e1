"""Delete the messages that wait in queues, ready or scheduled. What runs and what is dead stays; so does what is
scheduled where the broker cannot reach it, which is said.

    celeriac -A proj purge
    celeriac -A proj purge -f -Q mail,reports

Without -Q these are the queues that a worker without -Q takes from, as with Celery.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from celeriac import wire
from celeriac.brokers.abilities import Searchable
from celeriac.cli import parsing, show
from celeriac.cli.opening import check_queues, known_queues, open_broker
from celeriac.exceptions import ImproperlyConfigured
from celeriac.routing import usual_queues


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac purge`."""
    add = parser.add_argument
    add("-f", "--force", action="store_true", help="do not ask")
    add("-Q", "--queues", type=parsing.names, default=(), metavar="NAMES", help="these queues")
    add("-X", "--exclude-queues", type=parsing.names, default=(), metavar="NAMES", help="but not these")
    add("--all", action="store_true", help="every queue at the broker")


def run(args: argparse.Namespace) -> int:
    """Ask, then delete."""
    with open_broker(args) as app:
        named = args.queues or (known_queues(app) if args.all else usual_queues(app.conf))
        _check(app, (*args.queues, *args.exclude_queues), args)
        names = [name for name in dict.fromkeys(named) if name not in args.exclude_queues]
        if not names:
            raise ImproperlyConfigured("no queue is left to purge: all are excluded")
        if not args.force:
            waiting = {name: (stats := app.broker.stats(name)).ready + (stats.delayed or 0) for name in names}
            listed = ", ".join(f"{name} ({number:,})" for name, number in waiting.items())
            if not parsing.ask(f"This deletes what waits in: {listed}. It cannot be undone. Go on?"):
                print("Nothing was deleted.", file=sys.stderr)
                return wire.EXIT_FAILURE
        deleted = sum(app.broker.purge(name) for name in names)
        is_all = isinstance(app.broker, Searchable)
    if not args.quiet:
        print(f"Purged {show.count(deleted, 'message')} from {show.count(len(names), 'known task queue')}.")
        if not is_all:
            print("What is scheduled stays: this broker cannot delete it.")
    return wire.EXIT_OK


def _check(app: Any, names: tuple[str, ...], args: argparse.Namespace) -> None:
    """Refuse misspelt queues; with -f say so only: a worker that purges may be the first to hear of its queues."""
    try:
        check_queues(app, names)
    except ImproperlyConfigured as exc:
        if not args.force:
            raise
        if not args.quiet:
            print(f"celeriac: {exc}", file=sys.stderr)
