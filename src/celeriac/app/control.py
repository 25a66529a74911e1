"""The door to remote control, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.control.commands import Control
from celeriac.control.inspecting import Inspect

__all__ = ["Control", "Inspect"]
