"""Celery's door to the class of signals; `celeriac.dispatch` is behind it."""

from celeriac.dispatch import Signal

__all__ = ["Signal"]
