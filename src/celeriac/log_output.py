"""Where log lines go and what they look like: the handler, the two formats, and what tasks print.

One record is one write, so that the lines of several processes on one terminal or file never mix. Knows
nothing of events or tasks: `logs` writes the records, `task_logs` tells which task runs.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from celeriac.settings import SETTINGS
from celeriac.urls import MASK

#: The value of `worker_log_format` that asks for one JSON object per line.
JSON: Final = "json"

_RESET: Final = "\033[0m"
_COLOURS: Final = {
    "DEBUG": "\033[1;34m",
    "WARNING": "\033[1;33m",
    "ERROR": "\033[1;31m",
    "CRITICAL": "\033[1;35m",
}
# Narrower than `urls.mask_url`: in a line of prose a password ends at a space at the latest.
_CREDENTIALS: Final = re.compile(r"(://[^\s:/@?#]*):\S*@")

#: Answers with the task that runs here, as (name, id), or None.
Current = Callable[[], tuple[str, str] | None]


def nothing_runs() -> None:
    """The `Current` of a process that runs no tasks."""
    return


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """How a process logs. `color` None: on a terminal. `redirect` None: what is printed is left alone."""

    level: int = logging.WARNING
    format: str = SETTINGS["worker_log_format"].default
    datefmt: str | None = None
    task_format: str = SETTINGS["worker_task_log_format"].default
    task_datefmt: str | None = None
    color: bool | None = None
    logfile: str | None = None
    hijack: bool = True
    redirect: int | None = None
    process: str = "MainProcess"
    worker: str = ""


def setup(wishes: Wishes, current: Current = nothing_runs) -> None:
    """Send log lines where they are wished, replacing an earlier `setup`.

    With `hijack` the root logger's handlers are replaced; without, they are kept, and one is added only where there
    is none.

    Raises:
        OSError: the log file cannot be opened.
    """
    handler = LineHandler(wishes.logfile)
    handler.setFormatter(_formatter(wishes, handler.is_terminal, current))
    root = logging.getLogger()
    for old in list(root.handlers):
        if wishes.hijack or isinstance(old, LineHandler):
            root.removeHandler(old)
            old.close()
    if root.handlers:
        handler.close()
    else:
        root.addHandler(handler)
    root.setLevel(wishes.level)
    if wishes.redirect is not None:
        redirected = logging.getLogger("celeriac.redirected")
        sys.stdout = LoggedOutput(redirected, wishes.redirect)
        sys.stderr = LoggedOutput(redirected, wishes.redirect)
        logging.captureWarnings(True)


def _formatter(wishes: Wishes, is_terminal: bool, current: Current) -> logging.Formatter:
    if wishes.format == JSON:
        return JsonFormatter(wishes.process, wishes.worker, current)
    # Colours are for a terminal only: as with Celery, `worker_log_color=True` does not force them into a file.
    return TextFormatter(wishes, is_terminal and wishes.color is not False)


def hide_passwords(text: str) -> str:
    """The text with the passwords of its URLs replaced by `********`."""
    return _CREDENTIALS.sub(rf"\g<1>:{MASK}@", text) if "://" in text else text


class LineHandler(logging.Handler):
    """Writes each record with one `write` to a file, or to the error output as it was when the process began.

    A file is opened anew when it has been moved away or deleted, so that `logrotate` needs no signal.
    """

    def __init__(self, path: str | None = None) -> None:
        """Raises: OSError"""
        super().__init__()
        self._path = path
        self._fd = _error_output() if path is None else _open(path)
        self._inode = (0, 0) if path is None else _inode(os.fstat(self._fd))

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return self._path is None and os.isatty(self._fd)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            line = memoryview(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
            if self._path is not None:
                self._follow(self._path)
            # A pipe or a full disk may take a part; never seen for a line of a usual length.
            while line:
                line = line[os.write(self._fd, line) :]
        except Exception:  # noqa: BLE001 - logging's own rule: a line that cannot be written breaks nothing
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell on the real error output: `sys.stderr` may lead back here."""
        if logging.raiseExceptions and sys.__stderr__ is not None:
            traceback.print_exc(file=sys.__stderr__)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _follow(self, path: str) -> None:
        try:
            inode = _inode(os.stat(path))
        except FileNotFoundError:
            inode = (0, 0)
        if inode != self._inode:
            fresh = _open(path)
            os.close(self._fd)
            self._fd, self._inode = fresh, _inode(os.fstat(fresh))


def _error_output() -> int:
    return 2 if sys.__stderr__ is None else sys.__stderr__.fileno()


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class TextFormatter(logging.Formatter):
    """Lines for people, in the formats of the settings; the whole line coloured by its level on a terminal."""

    def __init__(self, wishes: Wishes, is_coloured: bool) -> None:
        super().__init__(wishes.format, wishes.datefmt)
        self._task_formatter = logging.Formatter(wishes.task_format, wishes.task_datefmt)
        self._process = wishes.process
        self._is_coloured = is_coloured

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record. One with a `task_name` was written by a task."""
        record.processName = self._process
        is_of_task = hasattr(record, "task_name")
        text = self._task_formatter.format(record) if is_of_task else super().format(record)
        text = hide_passwords(text)
        colour = _COLOURS.get(record.levelname) if self._is_coloured else None
        return f"{colour}{text}{_RESET}" if colour else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, and what else is known.

    That is `process`, `pid`, `worker`, the `task` and `id` of the task that ran, and an event's own fields.
    """

    def __init__(self, process: str, worker: str, current: Current) -> None:
        super().__init__()
        self._process = process
        self._worker = worker
        self._current = current
        self._encode = msgspec.json.Encoder(enc_hook=repr, order=None).encode

    def format(self, record: logging.LogRecord) -> str:
        """The one line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": hide_passwords(record.getMessage()),
            "process": self._process,
            "pid": record.process,
        }
        if self._worker:
            line["worker"] = self._worker
        fields: dict[str, Any] | None = getattr(record, "data", None)
        if fields is None and (running := self._current()):
            line["task"], line["id"] = running
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _shown_exception(record.exc_info[1])
            line["traceback"] = hide_passwords(record.exc_text or self.formatException(record.exc_info))
        for name, value in (fields or {}).items():
            line.setdefault(name, hide_passwords(value) if isinstance(value, str) else value)
        return _without_surrogates(self._encode, line)


def _without_surrogates(encode: Callable[[Any], bytes], line: dict[str, Any]) -> str:
    try:
        return encode(line).decode()
    except (UnicodeEncodeError, msgspec.EncodeError, TypeError):
        return encode({key: ascii(value) for key, value in line.items()}).decode()


def _shown_exception(exc: BaseException) -> str:
    try:
        return hide_passwords(repr(exc))
    except Exception:  # noqa: BLE001 - user code: its line must be written all the same
        return f"<{type(exc).__name__}: its text cannot be had>"


#: Characters after which a line that never ends is logged all the same.
_LONGEST_LINE: Final = 8192


class LoggedOutput:
    """Stands in for `sys.stdout` or `sys.stderr`: what is printed becomes log lines."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    closed = False
    mode = "w"
    name = "<log>"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        # Each thread's begun line; and whether it logs just now: a handler that prints would come back here.
        self._inside = threading.local()

    def write(self, text: str) -> int:
        """Log what makes whole lines; the rest waits for the end of its line, or for `flush`."""
        if not getattr(self._inside, "writing", False):
            *lines, rest = (getattr(self._inside, "begun", "") + text).split("\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], ""
            self._inside.begun = rest
            self._log(lines)
        return len(text)

    def _log(self, lines: Iterable[str]) -> None:
        self._inside.writing = True
        try:
            for line in lines:
                if line:
                    self._logger.log(self._level, "%s", line)
        finally:
            self._inside.writing = False

    def writelines(self, lines: Iterable[str]) -> None:
        """Log each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what this thread has begun."""
        if not getattr(self._inside, "writing", False):
            begun, self._inside.begun = getattr(self._inside, "begun", ""), ""
            self._log([begun])

    def close(self) -> None:
        """Stays open: others print too."""

    def isatty(self) -> bool:
        """Never: programs that ask want to know whether to draw."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def fileno(self) -> int:
        """The error output's descriptor: for `faulthandler` and started programs."""
        return _error_output()
