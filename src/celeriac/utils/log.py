"""Celery's door to the loggers of tasks; `celeriac.task_logs` is behind it."""

from logging import getLogger as get_logger

from celeriac.task_logs import get_task_logger

__all__ = ["get_logger", "get_task_logger"]
