"""Show versions, platform and the settings that are not defaults, for a bug report. Passwords are masked."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata
from typing import Final

from celeriac import wire
from celeriac.cli import show
from celeriac.cli.opening import open_app
from celeriac.settings import mask

#: Packages whose version may matter.
_PACKAGES: Final = ("celeriac", "msgspec", "hiredis", "gevent", "django", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are only the general options."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    app = open_app(args)
    conf = app.conf
    rows = [(name, _version(name)) for name in _PACKAGES]
    rows += [
        ("python", f"{platform.python_implementation()} {sys.version.split()[0]}"),
        ("platform", platform.platform()),
        ("app", args.app or "none given"),
        ("broker", mask(conf.broker_url)),
        ("results", mask(conf.result_backend) or "at the broker"),
    ]
    show.table(("", ""), rows, color=not args.no_color)
    changed = [row for row in conf.rows() if conf.value_set_for(row.name)]
    if changed:
        print()
        cells = [(row.name, row.value, row.source) for row in changed]
        show.table(("setting", "value", "source"), cells, color=not args.no_color)
    return wire.EXIT_OK


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
