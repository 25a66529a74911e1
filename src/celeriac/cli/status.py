"""Show which workers answer, and how each is.

    celeriac -A proj status
    celeriac -A proj status --json
    celeriac -b redis://localhost status -d celery@web1 --timeout 3

"size" is processes x slots; "memory" is that of the processes that run tasks. The exit code is 69 where none answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Final

from celeriac import wire
from celeriac.cli import show
from celeriac.cli.opening import open_broker
from celeriac.cli.parsing import CommandFailed

_COLUMNS: Final = ("worker", "state", "pool", "size", "running", "done", "memory", "up", "queues")
_NUMERIC: Final = ("size", "running", "done", "memory", "up")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac status`."""
    parser.add_argument(
        "-t", "--timeout", type=float, default=1.0, metavar="SECONDS", help="wait so long for answers"
    )
    parser.add_argument(
        "-d", "--destination", metavar="NAMES", help="only these workers, separated by commas"
    )
    parser.add_argument("-j", "--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    names = None if args.destination is None else [name for name in args.destination.split(",") if name]
    with open_broker(args) as app:
        answers = app.control.inspect(names, args.timeout).conditions()
    if not answers:
        asked = f"none of {', '.join(names)}" if names else "no worker"
        raise CommandFailed(f"{asked} answers within {args.timeout:g} s", wire.EXIT_BROKER_UNAVAILABLE)
    if args.json:
        show.json([answer.body for answer in answers])
    else:
        rows = [_row(answer.worker, answer.body) for answer in answers]
        show.table(_COLUMNS, rows, numeric=_NUMERIC, color=not args.no_color)
    return wire.EXIT_OK


def _row(worker: str, status: Mapping[str, Any]) -> tuple[Any, ...]:
    condition = status["condition"]
    children = condition["children"]
    return (
        worker,
        status["not_live"] or status["not_ready"] or "ready",
        condition["pool"],
        f"{condition['processes']}x{condition['slots']}",
        sum(len(child["runs"]) for child in children),
        condition["done"],
        f"{sum(child['memory'] for child in children) // 1024} MiB",
        show.duration(condition["uptime"]),
        ",".join(condition["queues"]),
    )
