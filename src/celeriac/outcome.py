"""Outcome: how a run ended, as a value; and `call` and `call_awaited`, the only places where user code runs.

User exceptions become values here, once. What follows from an outcome (store, follow-ups, acknowledge, send
again) is decided by `worker.executor.settle`, or by `Task.apply` for a call in the same process.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

import msgspec

from celeriac import clock, plugins, states
from celeriac.context import Request, enter, leave
from celeriac.events import (
    BUS,
    HookFailed,
    TaskFailed,
    TaskIgnored,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskSucceeded,
)
from celeriac.exceptions import Ignore, Reject, Retry, RunAbandoned, Terminated


class Success(msgspec.Struct, frozen=True):
    """User code returned."""

    result: Any


class Failure(msgspec.Struct, frozen=True):
    """User code raised, and the run will not be repeated. `expected`: the task lists the class in `throws`."""

    error: BaseException
    traceback: str
    expected: bool = False


class Retried(msgspec.Struct, frozen=True):
    """The task goes round again; `retry.sig` is what will be sent."""

    retry: Retry
    traceback: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """The task refused its message."""

    reason: str
    requeue: bool


class Ignored(msgspec.Struct, frozen=True):
    """The task asked that nothing be made of this run. `is_repeated`: it did not run, since another message of the same
    call has done so and brought what was to follow on its way."""

    is_repeated: bool = False


class Revoked(msgspec.Struct, frozen=True):
    """The task did not run, or was ended, on request or because it had expired."""

    reason: str
    expired: bool = False
    terminated: bool = False


Outcome = Success | Failure | Retried | Rejected | Ignored | Revoked

IGNORED: Final = Ignored()
REPEATED: Final = Ignored(is_repeated=True)
#: A run that was ended because its task was revoked.
TERMINATED: Final = Revoked("terminated", terminated=True)


class ExceptionInfo:
    """What the hooks `on_failure`, `on_retry` and `after_return` get as `einfo`: Celery's, in what tasks use of it."""

    def __init__(self, exception: BaseException, text: str) -> None:
        self.type = type(exception)
        self.exception = exception
        self.traceback = text
        self.tb: TracebackType | None = exception.__traceback__

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


def call(task: Any, request: Request) -> Outcome:
    """Run a task's code for a request. Never raises for what user code does: that becomes the outcome.

    Only KeyboardInterrupt passes through, where the caller runs the task himself (eager), and `RunAbandoned`, where
    the run has been given up: its end was settled by whoever did that.
    """
    enter(task, request)
    try:
        try:
            result = _begin(task, request)
            if task.is_async:
                result = plugins.own("celeriac.loops:run")(result)
            outcome = _returned(request, result)
        except RunAbandoned:
            raise
        except BaseException as exc:
            if request.is_eager and isinstance(exc, KeyboardInterrupt):
                raise
            outcome = classify(task, request, exc)
        if task.hooks:
            _call_hooks(task, request, outcome)
        return outcome
    finally:
        leave(request)


async def call_awaited(task: Any, request: Request) -> Outcome:
    """`call` of a task whose code is a coroutine, on the loop where this is awaited. Its hooks run there too."""
    enter(task, request)
    try:
        try:
            outcome = _returned(request, await _begin(task, request))
        except RunAbandoned:
            raise
        except BaseException as exc:  # noqa: BLE001 - what user code raises is the outcome
            outcome = classify(task, request, exc)
        if task.hooks:
            _call_hooks(task, request, outcome)
        return outcome
    finally:
        leave(request)


def _begin(task: Any, request: Request) -> Any:
    """What the task's function returns; of one that is `async`, its coroutine."""
    message = request.message
    args, kwargs = (message.args, message.kwargs) if message is not None else ((), {})
    if BUS.wanted(TaskStarted):
        BUS.emit(TaskStarted(request.id, task.name, request))
    if "before_start" in task.hooks:
        task.before_start(request.id, args, kwargs)
    return task.target(*args, **kwargs)


def _returned(request: Request, result: Any) -> Outcome:
    return Success(result) if request.pending_retry is None else Retried(request.pending_retry)


def classify(task: Any, request: Request, exc: BaseException) -> Outcome:
    """The outcome that an exception of user code stands for."""
    match exc:
        case Retry():
            return Retried(exc, text_of(exc.exc or exc))
        case Ignore():
            return IGNORED
        case Reject():
            return Rejected(str(exc.reason or "rejected by the task"), bool(exc.requeue))
        case Terminated():
            return TERMINATED
        case Exception():
            try:
                retry = task.retry_of(exc)
            except Exception as other:  # noqa: BLE001 - user code may steer retries
                return Failure(other, text_of(other), isinstance(other, task.throws))
            if retry is not None:
                return Retried(retry, text_of(exc))
            return Failure(exc, text_of(exc), isinstance(exc, task.throws))
        case _:
            # SystemExit and the like: a task that calls sys.exit() fails, and takes no process with it.
            return Failure(exc, text_of(exc), isinstance(exc, task.throws))


def text_of(exc: BaseException) -> str:
    """The traceback as text, without the frames of this module."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, tb))
    except Exception as broken:  # noqa: BLE001 - user code writes the text of an exception
        return f"{type(exc).__name__} (its traceback cannot be shown: {type(broken).__name__})\n"


_HOOK_OF: Final[dict[type, str]] = {Success: "on_success", Failure: "on_failure", Retried: "on_retry"}
STATE_OF: Final[dict[type, str]] = {
    Success: states.SUCCESS, Failure: states.FAILURE, Retried: states.RETRY, Rejected: states.REJECTED,
    Ignored: states.IGNORED, Revoked: states.REVOKED,
}  # fmt: skip


def _call_hooks(task: Any, request: Request, outcome: Outcome) -> None:
    """`on_success`, `on_failure` or `on_retry`, then `after_return`, as Celery calls them."""
    message = request.message
    args, kwargs = (message.args, message.kwargs) if message is not None else ((), {})
    value: Any = None
    info: ExceptionInfo | None = None
    match outcome:
        case Success(result):
            value = result
        case Failure(error, text):
            value, info = error, ExceptionInfo(error, text)
        case Retried(retry, text):
            value = retry.exc or retry
            info = ExceptionInfo(value, text)
        case _:
            pass
    name = _HOOK_OF.get(type(outcome))
    if name is not None and name in task.hooks:
        extra = () if info is None else (info,)
        _call_hook(task, request, name, value, request.id, args, kwargs, *extra)
    if "after_return" in task.hooks and not isinstance(outcome, Rejected | Ignored):
        _call_hook(
            task, request, "after_return", STATE_OF[type(outcome)], value, request.id, args, kwargs, info
        )


def _call_hook(task: Any, request: Request, name: str, *arguments: Any) -> None:
    try:
        getattr(task, name)(*arguments)
    except Exception as exc:  # noqa: BLE001 - hooks are user code
        BUS.emit(HookFailed(str(request.id), task.name, name, text_of(exc)))


def failed_without_running(task: Any, request: Request, error: BaseException) -> Failure:
    """The outcome of a run that somebody else ended (a hard time limit, a dead process): hooks are called."""
    outcome = Failure(error, f"{type(error).__name__}: {error}\n", isinstance(error, task.throws))
    enter(task, request)
    try:
        if task.hooks:
            _call_hooks(task, request, outcome)
    finally:
        leave(request)
    return outcome


def announce(request: Request, outcome: Outcome, runtime: float) -> None:
    """Tell how a run ended to those who listen."""
    if type(outcome) is Success and not BUS.wanted(TaskSucceeded):
        return
    task_id, name = request.id, request.task_object.name
    match outcome:
        case Success(result):
            BUS.emit(TaskSucceeded(task_id, name, request, result, runtime))
        case Failure(error, text, expected):
            BUS.emit(TaskFailed(task_id, name, request, error, text, expected, runtime))
        case Retried(retry, text):
            delay = 0.0 if retry.sig is None or retry.sig.due_at is None else retry.sig.due_at - clock.now()
            BUS.emit(TaskRetried(task_id, name, request, retry.exc, text, max(0.0, delay)))
        case Rejected(reason, requeue):
            BUS.emit(TaskRejected(task_id, name, reason, requeue))
        case Ignored():
            BUS.emit(TaskIgnored(task_id, name))
        case Revoked(reason, expired, terminated):
            BUS.emit(TaskRevoked(task_id, name, reason, expired, terminated, request))
