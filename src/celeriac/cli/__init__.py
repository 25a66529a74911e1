"""The table of commands, and `main`, which finds the command, parses its line, runs it and answers with an exit code.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; only the one that is asked for is
imported. `--help` reads the table. Every error becomes one sentence on the error output and an exit code here.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from celeriac import plugins, wire
from celeriac.cli import parsing
from celeriac.exceptions import (
    BrokerUnavailable,
    CeleriacError,
    ImproperlyConfigured,
    ResultStoreUnavailable,
)
from celeriac.log_output import hide_passwords


class Command(NamedTuple):
    """One command: its module and what it does, in a line."""

    module: str
    help: str


#: A third party adds its own by the entry point `celeriac.commands`.
COMMANDS: Final[Mapping[str, Command]] = {
    "call": Command("celeriac.cli.call", "Send a task by name"),
    "config": Command("celeriac.cli.config", "Show every setting, its value and where that comes from"),
    "control": Command("celeriac.cli.control", "Stop workers, revoke and terminate tasks"),
    "dead": Command("celeriac.cli.dead", "List, show, replay and drop dead letters"),
    "inspect": Command("celeriac.cli.inspect", "Ask workers what they do and hold"),
    "migrate": Command("celeriac.cli.migrate", "Make or change the tables that a database server needs"),
    "move": Command("celeriac.cli.move", "Move messages to another broker"),
    "pause": Command("celeriac.cli.pause", "Let workers take nothing more from queues"),
    "purge": Command("celeriac.cli.purge", "Delete the messages that wait in queues"),
    "queues": Command("celeriac.cli.queues", "Show what waits, runs and is dead in every queue"),
    "report": Command("celeriac.cli.report", "Show versions, platform and settings, for a bug report"),
    "result": Command("celeriac.cli.result", "Show how a task ended"),
    "resume": Command("celeriac.cli.resume", "Let workers take from paused queues again"),
    "status": Command("celeriac.cli.status", "Show which workers answer, and how each is"),
    "worker": Command("celeriac.cli.worker", "Start a worker"),
}

#: Commands of Celery's that are not here yet, or have another name.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "amqp": "use the broker's own tools",
    "beat": "not available yet",
    "events": "not available yet",
    "graph": "not part of Celeriac",
    "list": "use `celeriac queues`",
    "logtool": "use `celeriac worker --log-format json` and any tool that reads JSON",
    "multi": "let systemd, a container or a supervisor start each worker; `--processes` adds processes to one",
    "shell": "not available yet",
    "upgrade": "not needed: Celery's old settings are read as they are",
}

EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141


def main(argv: Sequence[str]) -> int:
    """Run one command line, without the program's name. Returns the exit code; raises nothing."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell_warning
            code = _dispatch(list(argv))
        sys.stdout.flush()
        return code
    except ImproperlyConfigured as exc:
        return _fail(exc, wire.EXIT_USAGE)
    except (BrokerUnavailable, ResultStoreUnavailable) as exc:
        return _fail(exc, wire.EXIT_BROKER_UNAVAILABLE)
    except parsing.CommandFailed as exc:
        return _fail(exc, exc.code)
    except CeleriacError as exc:
        return _fail(exc, wire.EXIT_FAILURE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); the interpreter must not complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _tell_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    """A warning as a sentence: the line of code that gave it says nothing to who typed a command."""
    print(f"celeriac: {hide_passwords(str(message))}", file=sys.stderr)


def _fail(exc: BaseException, code: int) -> int:
    print(f"celeriac: {hide_passwords(str(exc))}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    name, rest = parsing.split(argv)
    if name is None:
        return _without_command(rest)
    module = _find(name)
    parser = parser_of(name, module)
    args = parser.read(rest, os.environ)
    if args.version:
        return _print_version()
    parsing.enter(args)
    code: int = module.run(args)
    return code


def parser_of(name: str, module: Any) -> parsing.Parser:
    """The parser of a command: the general options and its own."""
    doc = (module.__doc__ or "").strip()
    parser = parsing.Parser(name, doc)
    parsing.add_general_options(parser)
    module.add_arguments(parser)
    return parser


def _find(name: str) -> Any:
    if name in _ELSEWHERE:
        raise ImproperlyConfigured(f"`celeriac {name}`: {_ELSEWHERE[name]}")
    return plugins.find("command", name, {known: row.module for known, row in COMMANDS.items()})


def _without_command(rest: list[str]) -> int:
    parser = parsing.Parser(None, "")
    parsing.add_general_options(parser)
    if not rest:
        print(help_text(), file=sys.stderr)
        return wire.EXIT_USAGE
    if {"-h", "--help"} & set(rest):
        print(help_text())
        return wire.EXIT_OK
    if parser.read(rest, {}).version:
        return _print_version()
    raise ImproperlyConfigured("no command given: `celeriac --help` lists them")


def help_text() -> str:
    """What `celeriac --help` prints."""
    parser = parsing.Parser(None, "A distributed task queue.")
    parsing.add_general_options(parser)
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{row.help}" for name, row in COMMANDS.items()]
    commands = "\n".join(["commands (`celeriac COMMAND --help` tells more):", *lines])
    return f"{parser.format_help()}\n{commands}"


def _print_version() -> int:
    print(plugins.load("importlib.metadata:version")("celeriac"))
    return wire.EXIT_OK
