"""The door to the class of tasks, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.context import Request as Context
from celeriac.task import Task

__all__ = ["Context", "Task"]
