"""The door to small helpers, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.message import new_id as uuid

__all__ = ["uuid"]
