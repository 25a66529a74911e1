"""Command lines taken apart: argparse with our manners.

General options are accepted before and after the command. An unknown flag or value is an error that names the
nearest right one. Options that are not given may come from the environment, as Celery's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from celeriac.exceptions import CeleriacError, ImproperlyConfigured, UnknownOption
from celeriac.plugins import nearest
from celeriac.settings import SETTINGS

#: Options that every command has; True where a value follows.
_GENERAL: Final[Mapping[str, bool]] = {
    "-A": True, "--app": True, "-b": True, "--broker": True, "--result-backend": True, "--loader": True,
    "--config": True, "--workdir": True, "-C": False, "--no-color": False, "-q": False, "--quiet": False,
    "--version": False, "--skip-checks": False, "-h": False, "--help": False,
}  # fmt: skip
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("", "0", "false", "no", "off")


class CommandFailed(CeleriacError):
    """A command cannot do what was asked; `code` is the process's exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's own asks `shutil` for the width, at every option: too much for a supervisor to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=_width())


def _width() -> int:
    """Columns of the terminal, less a margin."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size().columns
    except (ValueError, OSError):
        columns = 100
    return max(40, columns - 2)


class Parser(argparse.ArgumentParser):
    """The parser of one command, or of none: errors are raised, and name the nearest right option."""

    def __init__(self, command: str | None, description: str) -> None:
        super().__init__(
            prog=f"celeriac {command}" if command else "celeriac",
            usage="%(prog)s [options]" if command else "%(prog)s [options] COMMAND ...",
            description=description,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.command = command

    @property
    def options(self) -> list[argparse.Action]:
        """What may be given, in order, positional arguments included."""
        return list(self._actions)

    def add_argument(self, *names_or_flags: Any, **options: Any) -> argparse.Action:
        """As argparse's; the usage line tells only what stands without a flag."""
        action = super().add_argument(*names_or_flags, **options)
        if not action.option_strings:
            name = action.metavar or action.dest
            shape = {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}
            self.usage = f"{self.usage} {shape.get(str(action.nargs), name)}"
        return action

    def read(self, argv: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
        """The values of one command line.

        Raises:
            UnknownOption: there is no such flag.
            ImproperlyConfigured: a value is missing or wrong.
        """
        self._take_defaults(environ)
        args, rest = self.parse_known_intermixed_args(list(argv))
        for text in rest:
            if text.startswith("-") and text != "--":
                raise self._unknown(text)
        surplus = [text for text in rest if text != "--"]
        if surplus:
            raise ImproperlyConfigured(f"{surplus[0]!r} is one argument too many.{self._see}")
        return args

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise ImproperlyConfigured(f"{message.removeprefix('argument ')}.{self._see}")

    @property
    def _see(self) -> str:
        return f" See `{self.prog} --help`."

    def _unknown(self, text: str) -> UnknownOption:
        flag = text.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        hint = nearest(flag, [name for name in known if name.startswith("--") == flag.startswith("--")])
        return UnknownOption(f"{self.prog} has no option {flag!r}.{hint}{'' if hint else self._see}")

    def _take_defaults(self, environ: Mapping[str, str]) -> None:
        """`CELERY_WORKER_LOGLEVEL=INFO` is `celeriac worker --loglevel INFO`, as with Celery."""
        for action in self._actions:
            long_name = next((name for name in action.option_strings if name.startswith("--")), None)
            if self.command is None or long_name is None or long_name in _GENERAL:
                continue
            variable = f"CELERY_{self.command}_{long_name[2:]}".upper().replace("-", "_")
            if text := environ.get(variable):
                is_flag = action.nargs == 0
                self.set_defaults(**{action.dest: _truth(variable, text) if is_flag else text})


def _truth(variable: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ImproperlyConfigured(f"{variable} must be 1 or 0, not {text!r}")
    return text.lower() in _TRUE


def add_general_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    add = parser.add_argument
    add("-A", "--app", metavar="APP", help="the application: module, or module:attribute [CELERIAC_APP]")
    add("-b", "--broker", metavar="URL", help="where messages are kept")
    add("--result-backend", metavar="URL", help="where results are kept")
    add("--config", metavar="MODULE", help="a module of settings [CELERIAC_CONFIG_MODULE]")
    add("--workdir", metavar="DIR", help="change to this directory first")
    add("-C", "--no-color", action="store_true", help="no colours [NO_COLOR]")
    add("-q", "--quiet", action="store_true", help="print less")
    add("--version", action="store_true", help="print the version and exit")
    add("--skip-checks", action="store_true", help="skip Django's checks at the start")
    add("--loader", metavar="CLASS", help=argparse.SUPPRESS)


def split(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command and what else there is, in order; None where there are only general options.

    Raises:
        UnknownOption: an option that is not a general one stands before the command.
    """
    at = 0
    while at < len(argv):
        text = argv[at]
        if not text.startswith("-"):
            return text, [*argv[:at], *argv[at + 1 :]]
        flag = text.partition("=")[0] if text.startswith("--") else text[:2]
        if flag not in _GENERAL:
            hint = nearest(flag, _GENERAL) or " An option of a command stands behind it."
            raise UnknownOption(f"celeriac has no option {flag!r}.{hint}")
        at += 2 if _GENERAL[flag] and text == flag else 1
    return None, list(argv)


def enter(args: argparse.Namespace) -> None:
    """Do what general options ask of the process: directory, settings module, environment.

    Raises:
        ImproperlyConfigured: the directory is not there, or a loader is asked for.
    """
    if args.loader:
        raise ImproperlyConfigured("there are no loaders here: leave --loader out, and use --config")
    if args.workdir:
        try:
            os.chdir(args.workdir)
        except OSError as exc:
            raise ImproperlyConfigured(f"--workdir {args.workdir!r}: {exc.strerror}") from None
    # Later processes read these too.
    if args.config:
        os.environ["CELERIAC_CONFIG_MODULE"] = args.config
    if args.skip_checks:
        os.environ["CELERIAC_SKIP_CHECKS"] = "1"
    args.app = args.app or os.environ.get("CELERIAC_APP") or os.environ.get("CELERY_APP") or ""
    args.broker = args.broker or os.environ.get("CELERIAC_BROKER") or os.environ.get("CELERY_BROKER") or None
    # https://no-color.org: any value that is not empty.
    args.no_color = args.no_color or any(
        map(os.environ.get, ("NO_COLOR", "CELERIAC_NO_COLOR", "CELERY_NO_COLOR"))
    )


def general_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that general options give."""
    given = {"broker_url": args.broker, "result_backend": args.result_backend}
    return {name: value for name, value in given.items() if value is not None}


def one_of(*choices: str) -> Callable[[str], str]:
    """A type of option: one of these words, in any case."""

    def read(text: str) -> str:
        known = {choice.lower(): choice for choice in choices}
        if text.lower() not in known:
            hint = nearest(text.lower(), known)
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}.{hint}".rstrip("."))
        return known[text.lower()]

    return read


def names(text: str) -> tuple[str, ...]:
    """A type of option: names with commas between them."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def weighted(text: str) -> dict[str, int | None]:
    """A type of option: names with commas between them, each with its weight behind a colon where it is to have one."""
    found: dict[str, int | None] = {}
    for word in names(text):
        name, colon, weight = word.rpartition(":")
        if colon and not (name and weight.isascii() and weight.isdigit() and int(weight)):
            raise argparse.ArgumentTypeError(
                f"{word!r}: behind the colon is the queue's weight, a whole number (1 or more). A queue with a colon "
                f"in its own name needs one too: {word}:1"
            )
        name = name or word
        if name in found and (colon or found[name]):
            raise argparse.ArgumentTypeError(f"{name!r} is named twice: a queue has one weight")
        found[name] = int(weight) if colon else None
    return found


def read_setting(name: str) -> Callable[[str], Any]:
    """A type of option: a value of that setting, checked as the setting itself is."""

    def read(text: str) -> Any:
        row = SETTINGS[name]
        return row.read(text, f"command line flag {row.flag}")

    return read


def ask(question: str) -> bool:
    """Whether the person at the terminal says yes; without one, no."""
    print(f"{question} [yes/NO]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    return answer.strip().lower() in ("y", "yes")
