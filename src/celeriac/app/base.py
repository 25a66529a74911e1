"""The door to the class of applications, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.app import Celeriac, Celery

__all__ = ["Celeriac", "Celery"]
