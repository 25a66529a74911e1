"""The door to signatures and workflows, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.workflow.chain import chain
from celeriac.workflow.group import group
from celeriac.workflow.signature import Signature, maybe_signature, signature

__all__ = ["Signature", "chain", "group", "maybe_signature", "signature"]
