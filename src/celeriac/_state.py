"""The door to what is current, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.compat import current_app, current_task
from celeriac.context import current_app as get_current_app
from celeriac.context import current_task as get_current_task

__all__ = ["current_app", "current_task", "get_current_app", "get_current_task"]
