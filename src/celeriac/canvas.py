"""The door to signatures and workflows, under Celery's module name. Nothing inside imports it."""

from __future__ import annotations

from celeriac.workflow.chain import chain
from celeriac.workflow.chord import chord
from celeriac.workflow.group import group
from celeriac.workflow.mapping import chunks, xmap, xstarmap
from celeriac.workflow.signature import Signature, maybe_signature, signature
from celeriac.workflow.signature import signature as subtask
from celeriac.workflow.stamping import StampingVisitor

__all__ = [
    "Signature", "StampingVisitor", "chain", "chord", "chunks", "group", "maybe_signature", "signature", "subtask",
    "xmap", "xstarmap",
]  # fmt: skip
