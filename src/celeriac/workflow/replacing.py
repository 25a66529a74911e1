"""Replacing a task that runs: another call takes its place, under its id and with all that was to follow it.

Decides what is sent; `Task.on_replace` runs or sends it. In a worker it is sent as part of the settlement that ends the
replaced message, so that neither is lost.
"""

from __future__ import annotations

from typing import Any

from celeriac.context import Request
from celeriac.exceptions import ImproperlyConfigured
from celeriac.workflow.chain import chain
from celeriac.workflow.signature import Signature, listed, maybe_signature


def successor(signature: Any, request: Request, app: Any) -> Signature:
    """The signature as it stands for the running task: its id, place, callbacks, and the rest of its chain.

    Raises: ImproperlyConfigured: a chain without steps, or part of a chord.
    """
    found: Signature = maybe_signature(signature, app).clone()
    steps = found.tasks if isinstance(found, chain) else [found]
    if not steps:
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    if any("chord" in step.options for step in (found, *steps)):
        raise ImproperlyConfigured("a signature that replaces a task must not be part of a chord")
    if steps[-1].subtask_type == "group":
        # Somebody waits for one result: the list of the members'.
        found = found | Signature("celery.accumulate", (), {"index": 0}, app=app)
        steps = found.tasks if isinstance(found, chain) else [found]
    first, last = steps[0], steps[-1]
    for callback in (*listed(found.options.pop("link", None) if found is not last else None),
                     *listed(request.callbacks)):  # fmt: skip
        last.link(callback)
    for errback in (*listed(found.options.pop("link_error", None) if isinstance(found, chain) else None),
                    *listed(request.errbacks)):  # fmt: skip
        for step in steps:
            step.link_error(errback)
    if not request.ignore_result:
        last.options.setdefault("ignore_result", False)  # somebody may wait under the replaced task's id
    last.set(group_id=request.group, group_index=request.group_index, chord=request.chord)
    first.set(parent_id=request.parent_id)
    found.freeze(request.id)
    nesting = (request.replaced_task_nesting or 0) + 1
    for step in steps:
        step.set(root_id=request.root_id, replaced_task_nesting=nesting)
    following = [maybe_signature(step, app).clone() for step in reversed(request.chain or ())]
    for step in following:
        step.set(replaced_task_nesting=nesting)
    return chain(found, *following, app=app) if following else found
