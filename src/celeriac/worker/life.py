"""A worker's life as the application's code is told of it: Celery's signals about workers and their logs.

The supervisor has no user code, so the template stands for the worker as a whole, and each child for itself. Nothing
is sent where nobody has connected.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final

import msgspec

from celeriac import logs, signals, task_logs
from celeriac.events import BUS
from celeriac.wire import EXIT_OK, Fork, Stopping, Up, Word, WorkerOptions
from celeriac.worker.template import hostname_of

#: What the process that stands for the whole worker is called in log lines, as its supervisor is.
MAIN: Final = "MainProcess"


class WorkerInstance(msgspec.Struct, frozen=True):
    """The worker as receivers see it: the sender of `worker_ready` and others."""

    app: Any
    hostname: str
    options: WorkerOptions

    @property
    def loglevel(self) -> str:
        """The name of its log level."""
        return self.options.loglevel

    @property
    def logfile(self) -> str | None:
        """Where its log lines go; None: to the error output."""
        return self.options.logfile


def instance(app: Any, options: WorkerOptions) -> WorkerInstance:
    """The worker that these options ask for."""
    return WorkerInstance(app, hostname_of(options), options)


def imports(app: Any) -> None:
    """The modules with the application's tasks are imported next."""
    signals.import_modules.send(sender=app)


def configures(app: Any, options: WorkerOptions) -> None:
    """The application is imported; its settings can still be changed."""
    worker = instance(app, options)
    signals.celeryd_init.send(
        sender=worker.hostname, instance=worker, conf=app.conf, options=msgspec.structs.asdict(options)
    )


def begins(app: Any, options: WorkerOptions) -> None:
    """The application is as it will be; children are forked next, and share what receivers load now.

    Raises: OSError: the log file cannot be opened. And what a receiver of `setup_logging` raises.
    """
    worker = instance(app, options)
    signals.celeryd_after_setup.send(sender=worker.hostname, instance=worker, conf=app.conf)
    start_logs(options, app.conf, MAIN)
    signals.worker_init.send(sender=worker)


def is_needed() -> bool:
    """Whether user code needs this process, which stands for the worker, to the end: it listens to what is told of the
    worker as a whole, or has started threads here."""
    told = (
        signals.celeryd_init, signals.celeryd_after_setup, signals.worker_init, signals.worker_before_create_process,
        signals.worker_ready, signals.worker_shutting_down, signals.worker_shutdown,
    )  # fmt: skip
    return threading.active_count() > 1 or any(signal.has_listeners() for signal in told)


def tell(app: Any, options: WorkerOptions, word: Word | None) -> None:
    """What the template does or hears next; None: the worker has ended."""
    worker = instance(app, options)
    match word:
        case Fork():
            signals.worker_before_create_process.send(sender=worker)
        case Up():
            signals.worker_ready.send(sender=worker)
        case Stopping(reason, how, code):
            signals.worker_shutting_down.send(sender=worker.hostname, sig=reason, how=how, exitcode=code)
        case _:
            signals.worker_shutdown.send(sender=worker)


def child_begins(hostname: str) -> None:
    """A child is there, and has taken nothing yet."""
    signals.worker_process_init.send(sender=hostname)


def child_ends(hostname: str) -> None:
    """All that this child ran is settled."""
    signals.worker_process_shutdown.send(sender=hostname, pid=os.getpid(), exitcode=EXIT_OK)


def start_logs(options: WorkerOptions, conf: Any, process: str) -> None:
    """Set up the logs of a process that has user code; where `setup_logging` is connected, its receivers do that.

    Raises: OSError: the log file cannot be opened. And what a receiver of `setup_logging` raises.
    """
    wishes = logs.wishes_of(options, conf, process)
    told = {
        "loglevel": wishes.level, "logfile": wishes.logfile, "format": wishes.format, "colorize": wishes.color
    }  # fmt: skip
    if signals.setup_logging.has_listeners():
        for _, response in signals.setup_logging.send(None, **told):
            if isinstance(response, Exception):
                raise response
        logs.listen(BUS, wishes.level)
        return
    logs.start(options, conf, process, task_logs.current)
    signals.after_setup_logger.send(None, logger=logging.getLogger(), **told)
    told["format"] = wishes.task_format
    signals.after_setup_task_logger.send(None, logger=logging.getLogger(task_logs.TASK_LOGGER), **told)
