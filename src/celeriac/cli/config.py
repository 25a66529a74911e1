"""Show settings: the value of each, where it comes from, and its default. Passwords are masked.

    celeriac -A proj config
    celeriac -A proj config --changed
    celeriac -A proj config task_acks_late worker_concurrency

A name may also be Celery's old one.
"""

from __future__ import annotations

import argparse
from typing import Final

from celeriac import wire
from celeriac.cli import show
from celeriac.cli.opening import open_app
from celeriac.settings import SETTINGS

_COLUMNS: Final = ("setting", "value", "source", "default")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac config`."""
    parser.add_argument("names", nargs="*", metavar="SETTING", help="only these; default: all")
    parser.add_argument("--changed", action="store_true", help="only what something gave a value")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print them."""
    conf = open_app(args).conf
    names = {conf.find_option(name).name for name in args.names} or SETTINGS.keys()
    values = conf.table()
    rows = [
        row for row in conf.rows() if row.name in names and (not args.changed or conf.value_set_for(row.name))
    ]
    if args.json:
        show.json([{"setting": row.name, "value": values[row.name], "source": row.source} for row in rows])
    else:
        cells = [(row.name, row.value, row.source, row.default) for row in rows]
        show.table(_COLUMNS, cells, color=not args.no_color)
    return wire.EXIT_OK
