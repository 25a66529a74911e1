"""Ask workers what they do and hold: `app.control.inspect()` as a command.

    celeriac -A proj inspect active
    celeriac -A proj inspect query_task 9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11 --json
    celeriac -A proj inspect registered rate_limit -d celery@web1,celery@web2 -t 3

QUESTION is one of active, active_queues, conf, ping, query_task, registered, report, reserved, revoked,
scheduled and stats.
The exit code is 69 where no worker answers.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from celeriac import wire
from celeriac.cli import parsing, show
from celeriac.cli.opening import open_broker
from celeriac.cli.parsing import CommandFailed
from celeriac.exceptions import ImproperlyConfigured
from celeriac.setting_kinds import is_mapping

#: What can be asked, under Celery's other names too; and what the arguments are, if it takes some.
QUESTIONS: Final = {
    "active": "", "active_queues": "", "conf": "with_defaults", "ping": "", "query_task": "ids",
    "registered": "items", "registered_tasks": "items", "report": "", "reserved": "", "revoked": "",
    "scheduled": "", "stats": "",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `celeriac inspect`."""
    parser.add_argument("question", metavar="QUESTION", help="what is asked")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="ids, or attributes of tasks")
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of whatever speaks to workers."""
    parser.add_argument(
        "-t", "--timeout", type=float, default=1.0, metavar="SECONDS", help="wait so long for answers"
    )
    parser.add_argument(
        "-d",
        "--destination",
        type=parsing.names,
        metavar="NAMES",
        help="only these workers, separated by commas",
    )
    parser.add_argument("-j", "--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask, and print what each worker says."""
    with open_broker(args) as app:
        inspect = app.control.inspect(args.destination, args.timeout)
        try:
            question = getattr(inspect, args.question)
        except AttributeError as exc:
            raise ImproperlyConfigured(str(exc)) from None
        if args.question not in QUESTIONS:
            raise ImproperlyConfigured(f"{args.question!r} is no question. There are: {', '.join(QUESTIONS)}")
        takes = QUESTIONS[args.question]
        if args.arguments and not takes:
            raise ImproperlyConfigured(f"`celeriac inspect {args.question}` takes no arguments")
        answers = question(bool(args.arguments)) if takes == "with_defaults" else question(*args.arguments)
    tell(answers or {}, args)
    return wire.EXIT_OK


def tell(answers: dict[str, Any], args: argparse.Namespace) -> None:
    """Print what each has said. Raises: CommandFailed: none has."""
    if not answers:
        raise CommandFailed(f"no worker answers within {args.timeout:g} s", wire.EXIT_BROKER_UNAVAILABLE)
    if args.json:
        show.json(answers)
        return
    for worker, answer in answers.items():
        is_error = isinstance(answer, dict) and "error" in answer
        print(f"->  {worker}: {'ERROR' if is_error else 'OK'}")
        for line in _lines(answer):
            print(f"    {line}")
    if not args.quiet:
        print(f"\n{show.count(len(answers), 'worker')} answered.")


def _lines(answer: Any) -> list[str]:
    if is_mapping(answer):
        only = next(iter(answer.values())) if len(answer) == 1 else None
        return (
            only.splitlines()
            if isinstance(only, str)
            else [f"{name}: {value}" for name, value in answer.items()]
        )
    return [f"* {one}" for one in answer] or ["- empty -"]
