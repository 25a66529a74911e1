"""Celery's door to the exception that stands for one which cannot be rebuilt; `celeriac.exceptions` is behind it."""

from celeriac.exceptions import UnrebuiltError as UnpickleableExceptionWrapper

__all__ = ["UnpickleableExceptionWrapper"]
