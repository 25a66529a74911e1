"""What follows a run: callbacks, the next step of a chain, error callbacks.

`follow_ups` answers with the messages; the executor sends them as part of the settlement, after the result is
stored and before the message is acknowledged. A step's result travels in the next step's message, not through
the result store.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from celeriac import context, message
from celeriac.context import Request
from celeriac.events import BUS, HookFailed
from celeriac.outcome import Failure, Ignored, Outcome, Success, text_of
from celeriac.producer import Call
from celeriac.workflow.joining import everything
from celeriac.workflow.signature import Signature, maybe_signature

_NOTHING: Final[dict[str, Any]] = {}


def follow_ups(task: Any, request: Request, outcome: Outcome) -> list[Call]:
    """The calls that follow a run that ended so. Error callbacks that are functions here are called."""
    is_replaced = bool(request.replacement) and isinstance(outcome, Ignored)
    if not (is_replaced or request.is_chained):
        return []
    app = task.app
    with context.running(task, request):
        calls = request.replacement or []
        if not is_replaced:
            with context.following(request) as calls:
                _apply(app, request, outcome)
        return calls


def send_follow_ups(task: Any, request: Request, outcome: Outcome) -> None:
    """The same for a run in its caller: what follows is sent, or run at once where everything is."""
    if request.is_chained:
        with context.running(task, request):
            _apply(task.app, request, outcome)


def _apply(app: Any, request: Request, outcome: Outcome) -> None:
    match outcome:
        case Success(result):
            for callback in request.callbacks or ():
                maybe_signature(callback, app).apply_async((result,))
            if request.chain:
                _next_step(app, request, result)
        case Failure(error, text):
            for errback in request.errbacks or ():
                _call_back(app, request, maybe_signature(errback, app), error, text)
        case _:
            pass


def _next_step(app: Any, request: Request, result: Any) -> None:
    """Send the next step of the chain, and the rest of the chain with it."""
    *rest, step = request.chain
    following: Signature = maybe_signature(step, app)
    options: dict[str, Any] = {"chain": rest} if rest else {}
    following.apply_async((result,), **options)


def _call_back(app: Any, request: Request, errback: Signature, error: BaseException, text: str) -> None:
    """Send an error callback with the failed task's id, or call it here where it takes (request, exc, traceback)."""
    known = app.tasks.get(errback.task)
    if known is not None and not errback.immutable and _takes_three(known, errback):
        try:
            errback(request, error, text)
        except Exception as exc:  # noqa: BLE001 - user code: a broken error callback must not hide the error
            BUS.emit(HookFailed(str(request.id), request.task, f"link_error {errback.task}", text_of(exc)))
        return
    errback.apply_async((request.id,))


def _takes_three(task: Any, errback: Signature) -> bool:
    """Whether it takes the request, the exception and the traceback before the arguments that the callback has, as
    error callbacks of the new style do."""
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return False
    places = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in errback.kwargs
    ]
    given = len(errback.args)
    required = len([p for p in places if p.default is p.empty]) - given
    has_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return required <= 3 and (len(places) - given >= 3 or (has_rest and required > 1))


def abandoned(request: Request) -> list[bytes]:
    """The keys of the later steps of a chain, which will never run once a step has failed."""
    return [
        message.key_of(task_id)
        for step in request.chain or ()
        for inner in everything(step)
        if (task_id := (inner.get("options") or _NOTHING).get("task_id")) is not None
    ]
