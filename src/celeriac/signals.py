"""Celery's signals, under Celery's names: `from celeriac.signals import task_prerun`.

Those about messages and tasks are fed by events, to which each listens while it has receivers; they are sent in the
process, the thread and, for what belongs to a run, the context in which it happens. Those about workers are sent by
`celeriac.worker.life`, in the processes that have the application's code. docs/reference/signals.md has them all.

Imported by whoever connects a receiver, and by workers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from celeriac import context, drafts, events
from celeriac.dispatch import Signal
from celeriac.events import BUS
from celeriac.exceptions import NotRegistered, Retry
from celeriac.outcome import STATE_OF, ExceptionInfo, Failure, Rejected, Retried, Success

#: Who sends, and what: a signal's sender and its arguments by name.
Told = tuple[Any, dict[str, Any]]

_NO_EVENTLET: Final = "there is no pool of eventlet"


def _fed(name: str, kind: type[events.Event], tell: Callable[[Any], Told | None], *args: str) -> Signal:
    """A signal that is sent when an event of that kind happens; `tell` says what, or None where it is not."""

    def hear(event: Any) -> None:
        if (told := tell(event)) is not None:
            sender, named = told
            run = getattr(event, "run", None)
            if run is None or run is context.REQUEST.get():
                signal.send(sender, **named)
                return
            with context.running(sender, run):
                signal.send(sender, **named)

    signal = Signal(name, args, start=partial(BUS.listen, kind, hear), stop=partial(BUS.forget, kind, hear))
    return signal


# ---- what is told of each event


def _sending(event: events.TaskSending) -> Told:
    draft = event.draft
    return event.task, {
        "body": draft.body, "headers": draft.headers, "properties": draft.properties, "exchange": "",
        "routing_key": event.queue, "declare": [], "retry_policy": {},
    }  # fmt: skip


def _sent(event: events.TaskSent) -> Told:
    sent = event.message
    headers: dict[str, Any] = drafts.headers_of(sent) | (sent.options.headers or {})
    return event.task, {
        "body": drafts.body_of(sent), "headers": headers, "exchange": "", "routing_key": event.queue,
    }  # fmt: skip


def _sent_as_before(event: events.TaskSent) -> Told:
    sent = event.message
    headers = drafts.headers_of(sent)
    return event.task, {
        "task_id": event.id, "task": event.task, "args": sent.args, "kwargs": sent.kwargs, "eta": headers["eta"],
        "taskset": headers["group"],
    }  # fmt: skip


def _received(event: events.TaskReceived) -> Told:
    return event.run.task_object, {"request": event.run}


def _call_of(run: Any) -> dict[str, Any]:
    return {"task_id": run.id, "args": run.args, "kwargs": run.kwargs}


def _started(event: events.TaskStarted) -> Told:
    task = event.run.task_object
    return task, {"task": task, **_call_of(event.run)}


def _ran(event: events.TaskRan) -> Told:
    task, value = event.run.task_object, None
    match event.outcome:
        case Success(result):
            value = result
        case Failure(error):
            value = error
        case Retried(retry):
            value = retry
        case Rejected(reason):
            value = reason
        case _:
            pass
    state = STATE_OF[type(event.outcome)]
    return task, {"task": task, "retval": value, "state": state, **_call_of(event.run)}


def _succeeded(event: events.TaskSucceeded) -> Told:
    return event.run.task_object, {"result": event.result, "runtime": event.runtime}


def _failed(event: events.TaskFailed) -> Told:
    info = ExceptionInfo(event.error, event.traceback)
    return event.run.task_object, {
        "exception": event.error, "traceback": event.error.__traceback__, "einfo": info, **_call_of(event.run)
    }  # fmt: skip


def _retried(event: events.TaskRetried) -> Told:
    reason = event.run.pending_retry or event.reason
    info = ExceptionInfo(event.reason or reason or Retry(), event.traceback)
    return event.run.task_object, {"request": event.run, "reason": reason, "einfo": info}


def _revoked(event: events.TaskRevoked) -> Told:
    return getattr(event.run, "task_object", None), {
        "request": event.run, "terminated": event.terminated, "signum": None, "expired": event.expired
    }  # fmt: skip


def _unreadable(event: events.TaskUnreadable) -> Told:
    return None, {"message": event.delivery, "exc": event.exception}


def _unknown(event: events.TaskUnknown) -> Told | None:
    if event.put_back:
        return None  # others may know it: its end comes when nobody does
    exc = NotRegistered(f"no worker of this queue knows the task {event.task!r}")
    return None, {"message": event.delivery, "exc": exc, "name": event.task, "id": event.id}


# ---- messages, told in the process that sends

before_task_publish: Final = _fed(
    "before_task_publish", events.TaskSending, _sending,
    "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy",
)  # fmt: skip
after_task_publish: Final = _fed(
    "after_task_publish", events.TaskSent, _sent, "body", "headers", "exchange", "routing_key"
)
task_sent: Final = _fed(
    "task_sent", events.TaskSent, _sent_as_before, "task_id", "task", "args", "kwargs", "eta", "taskset"
)

# ---- tasks, told in the process that runs them

task_received: Final = _fed("task_received", events.TaskReceived, _received, "request")
task_prerun: Final = _fed("task_prerun", events.TaskStarted, _started, "task_id", "task", "args", "kwargs")
task_success: Final = _fed("task_success", events.TaskSucceeded, _succeeded, "result", "runtime")
task_failure: Final = _fed(
    "task_failure", events.TaskFailed, _failed,
    "task_id", "exception", "args", "kwargs", "traceback", "einfo",
)  # fmt: skip
task_retry: Final = _fed("task_retry", events.TaskRetried, _retried, "request", "reason", "einfo")
task_postrun: Final = _fed(
    "task_postrun", events.TaskRan, _ran, "task_id", "task", "args", "kwargs", "retval", "state"
)
task_revoked: Final = _fed(
    "task_revoked", events.TaskRevoked, _revoked, "request", "terminated", "signum", "expired"
)
task_rejected: Final = _fed("task_rejected", events.TaskUnreadable, _unreadable, "message", "exc")
task_unknown: Final = _fed("task_unknown", events.TaskUnknown, _unknown, "message", "exc", "name", "id")
task_internal_error: Final = Signal(
    "task_internal_error",
    ("task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"),
    never="a fault of the worker's own ends its process, and others run its tasks; see the event ChildDied",
)

# ---- workers, told in the process that has imported the application and forks children

import_modules: Final = Signal("import_modules")
celeryd_init: Final = Signal("celeryd_init", ("instance", "conf", "options"))
celeryd_after_setup: Final = Signal("celeryd_after_setup", ("instance", "conf"))
worker_init: Final = Signal("worker_init")
worker_before_create_process: Final = Signal("worker_before_create_process")
worker_ready: Final = Signal("worker_ready")
worker_shutting_down: Final = Signal("worker_shutting_down", ("sig", "how", "exitcode"))
worker_shutdown: Final = Signal("worker_shutdown")

# ---- workers, told in each child

worker_process_init: Final = Signal("worker_process_init")
worker_process_shutdown: Final = Signal("worker_process_shutdown", ("pid", "exitcode"))

# ---- logging, told in both

setup_logging: Final = Signal("setup_logging", ("loglevel", "logfile", "format", "colorize"))
after_setup_logger: Final = Signal(
    "after_setup_logger", ("logger", "loglevel", "logfile", "format", "colorize")
)
after_setup_task_logger: Final = Signal(
    "after_setup_task_logger", ("logger", "loglevel", "logfile", "format", "colorize")
)

# ---- what there is no occasion for

beat_init: Final = Signal("beat_init", never="there is no beat yet")
beat_embedded_init: Final = Signal("beat_embedded_init", never="there is no beat inside of workers")
heartbeat_sent: Final = Signal("heartbeat_sent", never="workers send no heartbeats: leases say who is alive")
eventlet_pool_started: Final = Signal("eventlet_pool_started", never=_NO_EVENTLET)
eventlet_pool_preshutdown: Final = Signal("eventlet_pool_preshutdown", never=_NO_EVENTLET)
eventlet_pool_postshutdown: Final = Signal("eventlet_pool_postshutdown", never=_NO_EVENTLET)
eventlet_pool_apply: Final = Signal("eventlet_pool_apply", ("target", "args", "kwargs"), never=_NO_EVENTLET)
user_preload_options: Final = Signal(
    "user_preload_options", ("app", "options"), never="the command line takes no options of an application's"
)

__all__ = [
    "after_setup_logger", "after_setup_task_logger", "after_task_publish", "beat_embedded_init", "beat_init",
    "before_task_publish", "celeryd_after_setup", "celeryd_init", "eventlet_pool_apply", "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown", "eventlet_pool_started", "heartbeat_sent", "import_modules", "setup_logging",
    "task_failure", "task_internal_error", "task_postrun", "task_prerun", "task_received", "task_rejected",
    "task_retry", "task_revoked", "task_sent", "task_success", "task_unknown", "user_preload_options",
    "worker_before_create_process", "worker_init", "worker_process_init", "worker_process_shutdown", "worker_ready",
    "worker_shutdown", "worker_shutting_down",
]  # fmt: skip
