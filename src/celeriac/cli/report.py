"""Show versions, platform and the settings that are not defaults, for a bug report. Passwords are masked."""

from __future__ import annotations

import argparse

from celeriac import wire
from celeriac.cli import show
from celeriac.cli.opening import open_app
from celeriac.control import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are only the general options."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    app = open_app(args)
    rows = [*reporting.versions(), *reporting.places(app), ("app", args.app or "none given")]
    show.table(("", ""), rows, color=not args.no_color)
    if changed := reporting.changed(app):
        print()
        cells = [(row.name, row.value, row.source) for row in changed]
        show.table(("setting", "value", "source"), cells, color=not args.no_color)
    return wire.EXIT_OK
