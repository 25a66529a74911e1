"""Send a task by name, and print the id of the call.

    celeriac -A proj call proj.tasks.add -a '[2, 3]'
    celeriac -A proj call proj.tasks.mail -k '{"to": "ann@example.com"}' --countdown 60

The application need not know the task: a worker must.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from celeriac import clock, wire
from celeriac.cli.opening import open_broker
from celeriac.exceptions import ImproperlyConfigured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac call`."""
    add = parser.add_argument
    add("name", metavar="NAME", help="the task's name")
    add("-a", "--args", default="[]", metavar="JSON", help="positional arguments: a JSON array")
    add("-k", "--kwargs", default="{}", metavar="JSON", help="arguments by name: a JSON object")
    add("--eta", type=_moment, metavar="TIME", help="run not before this time (ISO 8601; UTC if no zone)")
    add("--countdown", type=float, metavar="SECONDS", help="run not before so many seconds from now")
    add("--expires", type=_number_or_moment, metavar="TIME", help="do not run after: seconds, or ISO 8601")
    add("--serializer", help="how the arguments are written: msgpack, json, yaml")
    add("--queue", help="send to this queue")
    add("--exchange", metavar="NAME", help="send to every queue that is bound to this exchange")
    add("--routing-key", metavar="KEY", help="by this routing key")
    add("--priority", type=int, metavar="NUMBER", help="a higher number runs first")


def run(args: argparse.Namespace) -> int:
    """Send the call."""
    given = {
        "eta": args.eta, "countdown": args.countdown, "expires": args.expires, "serializer": args.serializer,
        "queue": args.queue, "exchange": args.exchange, "routing_key": args.routing_key,
        "priority": args.priority,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    values = _json("-a", args.args, list, "array")
    named = _json("-k", args.kwargs, dict, "object")
    with open_broker(args) as app:
        print(app.send_task(args.name, values, named, **options).id)
    return wire.EXIT_OK


def _json(flag: str, text: str, kind: type, expected: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise ImproperlyConfigured(f"{flag} is not JSON: {exc}") from None
    if not isinstance(value, kind):
        raise ImproperlyConfigured(f"{flag} must be a JSON {expected}, not {text}")
    return value


def _moment(text: str) -> Any:
    try:
        return clock.moment(clock.timestamp(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 2030-01-31T12:00:00Z") from None


def _number_or_moment(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return _moment(text)
