"""Show how a task ended: its return value, or its error.

    celeriac -A proj result 0199d7c4-6f0e-7d8c-9a51-1f2f4a1c8f6b
    celeriac -A proj result --timeout 30 0199d7c4-6f0e-7d8c-9a51-1f2f4a1c8f6b

Without --timeout it does not wait. The exit code is 0 for a task that succeeded.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from celeriac import states, wire
from celeriac.cli.opening import open_broker
from celeriac.exceptions import TimeoutError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac result`."""
    parser.add_argument("id", metavar="ID", help="the id of the call")
    parser.add_argument("-t", "--task", metavar="NAME", help="accepted; no effect: the id is enough")
    parser.add_argument("--traceback", action="store_true", help="show the traceback instead")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="wait so long for the task to end")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    with open_broker(args) as app:
        result = app.AsyncResult(args.id)
        if args.timeout:
            try:
                result.get(timeout=args.timeout, propagate=False)
            except TimeoutError:
                return _tell(f"task {args.id} has not ended within {args.timeout:g} seconds")
        return _show(result.record(), args)


def _show(record: Any, args: argparse.Namespace) -> int:
    if args.traceback and record.traceback:
        print(record.traceback.rstrip("\n"))
    elif record.state == states.SUCCESS:
        print(record.result)
    elif isinstance(record.result, BaseException):
        return _tell(f"{record.state}: {type(record.result).__name__}: {record.result}")
    else:
        hint = " (not known, not ended, or its result is not kept)" if record.state == states.PENDING else ""
        return _tell(f"task {args.id} has the state {record.state}{hint}")
    return wire.EXIT_OK if record.state == states.SUCCESS else wire.EXIT_FAILURE


def _tell(text: str) -> int:
    print(f"celeriac: {text}", file=sys.stderr)
    return wire.EXIT_FAILURE
