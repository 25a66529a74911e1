"""Celeriac: a distributed task queue. Users of Celery know its names: `from celeriac import Celery`."""

from __future__ import annotations

from celeriac.app import Celeriac, Celery
from celeriac.compat import current_app, current_task
from celeriac.declaring import shared_task
from celeriac.message import id_of, new_key
from celeriac.task import Task
from celeriac.workflow.chain import chain
from celeriac.workflow.group import group
from celeriac.workflow.signature import Signature, maybe_signature, signature

__version__ = "0.1.0"


def uuid() -> str:
    """A fresh task id."""
    return id_of(new_key())


__all__ = [
    "Celeriac",
    "Celery",
    "Signature",
    "Task",
    "__version__",
    "chain",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "uuid",
]
