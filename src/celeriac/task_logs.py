"""Log lines that tasks write: loggers that know the running task."""

from __future__ import annotations

import logging
from typing import Final

from celeriac.context import REQUEST
from celeriac.exceptions import ImproperlyConfigured

#: The parent of all task loggers: its level is theirs.
TASK_LOGGER: Final = "celeriac.task"
_RESERVED: Final = ("celeriac", TASK_LOGGER)
_NOBODY: Final = "???"


class TaskStamp(logging.Filter):
    """Lets everything through, with the `task_name` and `task_id` of the request that runs here."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Stamp one record; outside a task with `???`, as Celery."""
        record.task_name, record.task_id = current() or (_NOBODY, _NOBODY)
        return True


_STAMP: Final = TaskStamp()


def get_task_logger(name: str) -> logging.Logger:
    """The logger of that name, for use in tasks: a child of `celeriac.task`, in the format of task logs.

    Raises:
        ImproperlyConfigured: the name belongs to Celeriac.
    """
    if name in _RESERVED:
        raise ImproperlyConfigured(f"the logger name {name!r} is taken: use __name__")
    logger = logging.getLogger(name)
    logger.parent = logging.getLogger(TASK_LOGGER)
    logger.addFilter(_STAMP)
    return logger


def current() -> tuple[str, str] | None:
    """Name and id of the task that runs here."""
    request = REQUEST.get()
    if request is None or request.id is None:
        return None
    return str(request.task), str(request.id)
