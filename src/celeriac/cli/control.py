"""Tell workers what to do: `app.control` as a command.

    celeriac -A proj control shutdown -d celery@web1
    celeriac -A proj control revoke 9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11
    celeriac -A proj control terminate SIGKILL 9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11

A task that waits is revoked with all workers down. The exit code of `shutdown` is 69 where no worker answers.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from celeriac import wire
from celeriac.cli import inspect
from celeriac.cli.opening import open_broker
from celeriac.exceptions import ImproperlyConfigured

COMMANDS: Final = ("revoke", "shutdown", "terminate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac control`."""
    parser.add_argument("command", metavar="ACTION", help="one of shutdown, revoke and terminate")
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="ids; of terminate a signal before them"
    )
    inspect.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Tell them, and print what they answer."""
    name, arguments = args.command, list(args.arguments)
    with open_broker(args) as app:
        options: dict[str, Any] = {"destination": args.destination, "reply": True, "timeout": args.timeout}
        match name:
            case "shutdown" if not arguments:
                answers = app.control.shutdown(**options)
            case "revoke" if arguments:
                answers = app.control.revoke(arguments, **options)
            case "terminate" if len(arguments) > 1:
                answers = app.control.terminate(arguments[1:], signal=arguments[0], **options)
            case _:
                raise ImproperlyConfigured(_why_not(app, name))
    told = {worker: answer for one in answers or () for worker, answer in one.items()}
    if told or name == "shutdown":
        inspect.tell(told, args)
    return wire.EXIT_OK


def _why_not(app: Any, name: str) -> str:
    if name in COMMANDS:
        return f"`celeriac control {name}`: these arguments do not fit. See `celeriac control --help`."
    try:
        getattr(app.control, name)
    except AttributeError as exc:
        return str(exc)
    return f"{name!r} is no action. There are: {', '.join(COMMANDS)}"
