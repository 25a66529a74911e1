"""Make the tables that the broker and the result store need in their database, or bring them to this version.

    celeriac -A proj migrate
    celeriac -b postgresql://owner@db/shop migrate --dry-run > celeriac.sql

A worker makes them itself where they are missing and its user may; an earlier version is only changed by this. Each
step is one transaction, and whoever comes meanwhile waits. Servers without tables need nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from celeriac import brokers, connections, results, wire
from celeriac.brokers.abilities import Migrates
from celeriac.cli import show
from celeriac.cli.opening import open_broker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac migrate`."""
    parser.add_argument("--dry-run", action="store_true", help="print the statements and run none")


def run(args: argparse.Namespace) -> int:
    """Migrate each place once."""
    conf = open_broker(args, asks=False).conf
    store_at = connections.of_results(conf)
    both: list[Any] = [
        *(brokers.connect(*place) for place in connections.of_broker(conf)),
        *([results.connect(*store_at)] if store_at else []),
    ]
    for place, one in {one.place: one for one in both}.items():
        scripts: Sequence[str] = one.migrate(args.dry_run) if isinstance(one, Migrates) else ()
        if args.dry_run:
            print(f"-- {place}: {show.count(len(scripts), 'step')} to do")
            print("\n".join(scripts))
        elif not args.quiet:
            print(f"{place}: {show.count(len(scripts), 'step')} done" if scripts else f"{place}: up to date")
    return wire.EXIT_OK
