"""Events become log lines here, and nowhere else: which level, which words, which fields.

`start` sets up one process of a worker. It subscribes only to what the level lets through, so that a worker at
WARNING pays nothing for a task that succeeds. The wording of lines about tasks is Celery's: monitors parse it.

The supervisor imports this: it knows nothing of tasks or requests, `task_logs` adds them.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from celeriac import events
from celeriac.exceptions import ImproperlyConfigured
from celeriac.log_output import Current, Wishes, nothing_runs, setup
from celeriac.plugins import nearest
from celeriac.settings import SETTINGS, mask
from celeriac.urls import mask_url
from celeriac.wire import WorkerOptions

#: Celery's names of levels.
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")
#: The most characters of a return value in a line, as Celery's `resultrepr_maxsize`.
RESULT_SIZE: Final = 1024

_log: Final = logging.getLogger("celeriac.worker")


def start(
    options: WorkerOptions,
    conf: Any = None,
    process: str = "MainProcess",
    current: Current = nothing_runs,
    bus: events.Bus = events.BUS,
) -> None:
    """Set up the logs of one process of a worker, and turn its events into lines. May be called again.

    The supervisor has no `conf`: the command line's settings decide there.

    Raises:
        OSError: the log file cannot be opened.
    """
    wishes = wishes_of(options, conf, process)
    setup(wishes, current)
    listen(bus, wishes.level)


def wishes_of(options: WorkerOptions, conf: Any, process: str) -> Wishes:
    """How a process of this worker logs. Without the application's settings nothing printed is redirected."""

    def value(name: str) -> Any:
        return options.settings.get(name, SETTINGS[name].default) if conf is None else conf[name]

    redirects = conf is not None and value("worker_redirect_stdouts")
    return Wishes(
        level=level_of(options.loglevel),
        format=value("worker_log_format"),
        datefmt=value("worker_log_datefmt"),
        task_format=value("worker_task_log_format"),
        task_datefmt=value("worker_task_log_datefmt"),
        color=value("worker_log_color"),
        logfile=expand(options.logfile, options.hostname, process) if options.logfile else None,
        hijack=value("worker_hijack_root_logger"),
        redirect=level_of(value("worker_redirect_stdouts_level")) if redirects else None,
        process=process,
        worker=options.hostname,
    )


def level_of(name: str | int) -> int:
    """The number of a level.

    Raises:
        ImproperlyConfigured: no level has that name.
    """
    if isinstance(name, int):
        return name
    if name.upper() not in LEVELS:
        hint = nearest(name.upper(), LEVELS)
        raise ImproperlyConfigured(f"{name!r} is not a log level.{hint} Known: {', '.join(LEVELS)}")
    return logging.CRITICAL if name.upper() == "FATAL" else getattr(logging, name.upper())


def expand(path: str, worker: str, process: str = "MainProcess") -> str:
    """A path with Celery's `%h %n %d %p %i %I` filled in: host, name, domain, whole name, number of the child."""
    name, _, host = worker.rpartition("@")
    number = process.rpartition("-")[2] if "-" in process else "0"
    found = {
        "%%": "%",
        "%p": worker,
        "%n": name or "celery",
        "%h": host or platform.node(),
        "%d": host.partition(".")[2],
        "%i": number,
        "%I": "" if number == "0" else f"-{number}",
    }
    parts = path.split("%")
    text = parts[0]
    rest = iter(parts[1:])
    for part in rest:
        if not part:  # "%%"
            text += "%" + next(rest, "")
        else:
            text += found.get(f"%{part[0]}", f"%{part[0]}") + part[1:]
    return text


# ---- lines


class Line(msgspec.Struct, frozen=True):
    """One record to write. `data` is what a JSON line shows beside the message."""

    level: int
    text: str
    data: dict[str, Any]
    error: BaseException | None = None
    traceback: str | None = None


class Teller(msgspec.Struct, frozen=True):
    """Turns events of one class into lines. `level`: the highest that one of them may have."""

    level: int
    line: Callable[[Any], Line]

    def __call__(self, event: events.Event) -> None:
        """Write the event's line, where its level is enabled."""
        line = self.line(event)
        if not _log.isEnabledFor(line.level):
            return
        error = line.error
        # Made here and not by the logger, which would look for the caller's line: it is always this one.
        record = logging.LogRecord(
            _log.name, line.level, __file__, 0, line.text, None,
            None if error is None else (type(error), error, error.__traceback__),
        )  # fmt: skip
        record.exc_text = line.traceback or None
        record.data = line.data
        _log.handle(record)


def listen(bus: events.Bus, level: int) -> None:
    """Subscribe to the events whose lines this level lets through; those below cost nothing. Idempotent."""
    for kind, teller in TELLERS.items():
        bus.forget(kind, teller)
        if teller.level >= level:
            bus.listen(kind, teller)


def _named(event: events.TaskEvent) -> str:
    return f"{event.task}[{event.id}]"


def _about(event: events.TaskEvent, **fields: Any) -> dict[str, Any]:
    """An event's fields for JSON; `queue` where the run knows it."""
    data: dict[str, Any] = {"task": event.task, "id": event.id, **fields}
    delivery = getattr(getattr(event, "run", None), "delivery", None)
    if delivery is not None:
        data["queue"] = delivery.queue
    return data


def _sent(event: events.TaskSent) -> Line:
    return Line(logging.DEBUG, f"Task {_named(event)} sent", _about(event, queue=event.queue))


def _received(event: events.TaskReceived) -> Line:
    return Line(logging.INFO, f"Task {_named(event)} received", _about(event, queue=event.queue))


def _started(event: events.TaskStarted) -> Line:
    return Line(logging.DEBUG, f"Task {_named(event)} started", _about(event))


def _succeeded(event: events.TaskSucceeded) -> Line:
    result = brief(event.result, _result_size(event.run))
    text = f"Task {_named(event)} succeeded in {event.runtime:.6f}s: {result}"
    return Line(logging.INFO, text, _about(event, runtime=event.runtime, result=result))


def _failed(event: events.TaskFailed) -> Line:
    shown = brief(event.error, RESULT_SIZE)
    data = _about(event, runtime=event.runtime, exception=shown, traceback=event.traceback)
    if event.expected:
        return Line(logging.INFO, f"Task {_named(event)} raised expected: {shown}", data)
    text = f"Task {_named(event)} raised unexpected: {shown}"
    return Line(logging.ERROR, text, data, event.error, event.traceback.rstrip("\n"))


def _retried(event: events.TaskRetried) -> Line:
    reason = "" if event.reason is None else f": {brief(event.reason, RESULT_SIZE)}"
    data = _about(event, delay=event.delay, exception=reason[2:], traceback=event.traceback)
    return Line(
        logging.INFO, f"Task {_named(event)} retry: Retry in {round(event.delay, 2):.10g}s{reason}", data
    )


def _rejected(event: events.TaskRejected) -> Line:
    text = f"Task {_named(event)} reject requeue={event.requeued}: {event.reason}"
    return Line(logging.WARNING, text, _about(event, reason=event.reason, requeued=event.requeued))


def _ignored(event: events.TaskIgnored) -> Line:
    return Line(logging.INFO, f"Task {_named(event)} ignored", _about(event))


def _revoked(event: events.TaskRevoked) -> Line:
    how = "Terminated task" if event.terminated else "Discarding revoked task"
    why = "expired" if event.expired else event.reason
    text = f"{how}: {_named(event)}" + (f" ({why})" if why and why != "revoked" else "")
    data = _about(event, reason=event.reason, expired=event.expired, terminated=event.terminated)
    return Line(logging.INFO, text, data)


def _unknown(event: events.TaskUnknown) -> Line:
    fate = "put back for other workers" if event.put_back else "it is in the dead letters now"
    text = (
        f"Received unregistered task of type {event.task!r}: {event.id} {fate}. "
        "Did you remember to import the module containing this task?"
    )
    return Line(
        logging.WARNING if event.put_back else logging.ERROR, text, _about(event, put_back=event.put_back)
    )


def _unreadable(event: events.TaskUnreadable) -> Line:
    text = f"Can't decode message {_named(event)}: {event.error}; it is in the dead letters now"
    return Line(logging.ERROR, text, _about(event, exception=event.error))


def _overran(event: events.TaskOverran) -> Line:
    kind, level = ("Hard", logging.ERROR) if event.hard else ("Soft", logging.WARNING)
    text = f"{kind} time limit ({event.limit:g}s) exceeded for {_named(event)}"
    return Line(level, text, _about(event, limit=event.limit, hard=event.hard))


def _blocks_loop(event: events.TaskBlocksLoop) -> Line:
    text = (
        f"Task {_named(event)} has blocked the event loop for {event.seconds:.1f}s and keeps all other runs of this "
        f"process waiting: {event.where}"
    )
    return Line(logging.WARNING, text, _about(event, seconds=event.seconds, where=event.where))


def _lost(event: events.TaskLost) -> Line:
    text = f"Task {_named(event)} was given to another worker while it ran here: its end was refused"
    return Line(logging.WARNING, text, _about(event))


def _hook_failed(event: events.HookFailed) -> Line:
    text = f"Task {_named(event)}: {event.hook} raised\n{event.traceback.rstrip()}"
    return Line(logging.ERROR, text, _about(event, hook=event.hook, traceback=event.traceback))


def _state_not_stored(event: events.TaskStateNotStored) -> Line:
    text = f"Task {_named(event)}: its state {event.state} was not stored: {event.error}"
    return Line(logging.WARNING, text, _about(event, state=event.state, error=event.error))


def _worker_starting(event: events.WorkerStarting) -> Line:
    return Line(logging.DEBUG, f"{event.worker} starting.", {})


def _worker_ready(event: events.WorkerReady) -> Line:
    return Line(logging.INFO, f"{event.worker} ready.", {})


def _worker_stopping(event: events.WorkerStopping) -> Line:
    return Line(logging.INFO, f"{event.worker} stopping: {event.reason}", {"reason": event.reason})


def _worker_scaled(event: events.WorkerScaled) -> Line:
    waits = f": {event.backlog} messages wait" if event.processes > event.before and event.backlog else ""
    data = {"before": event.before, "processes": event.processes, "backlog": event.backlog}
    return Line(
        logging.INFO, f"{event.worker} goes from {event.before} to {event.processes} processes{waits}", data
    )


def _worker_stopped(event: events.WorkerStopped) -> Line:
    level = logging.ERROR if event.code else logging.INFO
    return Line(level, f"{event.worker} stopped with exit code {event.code}", {"code": event.code})


def _child_ready(event: events.ChildReady) -> Line:
    data = {"child": event.number, "child_pid": event.pid}
    return Line(logging.DEBUG, f"child {event.number} (pid {event.pid}) takes messages", data)


def _child_draining(event: events.ChildDraining) -> Line:
    return Line(logging.DEBUG, "told to stop: takes nothing more, and finishes what it runs", {})


def _child_imported(event: events.ChildImported) -> Line:
    data = {"module": event.module, "seconds": event.seconds}
    return Line(
        logging.INFO, f"imported {event.module} in {event.seconds:.2f} s: a task of it is wanted", data
    )


def _child_import_failed(event: events.ChildImportFailed) -> Line:
    text = f"the task module {event.module} cannot be imported:\n{event.traceback.rstrip()}"
    return Line(logging.ERROR, text, {"module": event.module})


def _child_recycled(event: events.ChildRecycled) -> Line:
    data = {"child": event.number, "child_pid": event.pid, "reason": event.reason}
    return Line(logging.INFO, f"child {event.number} (pid {event.pid}) is recycled: {event.reason}", data)


def _child_died(event: events.ChildDied) -> Line:
    running = f"; it was running {', '.join(event.tasks)}" if event.tasks else ""
    text = f"child {event.number} (pid {event.pid}) exited prematurely: {event.cause}{running}"
    data = {"child": event.number, "child_pid": event.pid, "cause": event.cause, "tasks": list(event.tasks)}
    return Line(logging.ERROR, text, data)


def _broker_lost(event: events.BrokerLost) -> Line:
    place, error = mask_url(event.place), mask(event.error).rstrip(".")
    text = f"consumer: Cannot connect to {place}: {error}. Trying again in {event.delay:.2f} seconds..."
    return Line(logging.ERROR, text, {"place": place, "exception": error, "delay": event.delay})


def _broker_caution(event: events.BrokerCaution) -> Line:
    place = mask_url(event.place)
    return Line(logging.WARNING, f"{place}: {event.text}", {"place": place, "caution": event.text})


def _broker_back(event: events.BrokerBack) -> Line:
    place = mask_url(event.place)
    text = f"Connected to {place} again after {event.away:.1f} seconds"
    # As loud as the loss was: who saw only that line would go on looking.
    return Line(logging.WARNING, text, {"place": place, "away": event.away})


def _broker_changed(event: events.BrokerChanged) -> Line:
    old, new = mask_url(event.old), mask_url(event.new)
    text = f"takes from {new} now, not from {old}: {event.reason}"
    return Line(logging.WARNING, text, {"old": old, "new": new, "reason": event.reason})


def _messages_moved(event: events.MessagesMoved) -> Line:
    source, target = mask_url(event.source), mask_url(event.target)
    text = f"{event.queue}: {event.count} messages moved from {source} to {target}"
    data = {"queue": event.queue, "count": event.count, "source": source, "target": target}
    return Line(logging.INFO, text, data)


def _lease_lost(event: events.LeaseWasLost) -> Line:
    text = f"the lease of {event.owner} ended while it lived (paused, or cut off): its tasks run elsewhere"
    return Line(logging.WARNING, text, {"owner": event.owner})


_EVICTED: Final = {
    "age": "had been kept for task_dead_letter_expires",
    "count": "were more than task_dead_letter_max",
}


def _dead_letters_evicted(event: events.DeadLettersEvicted) -> Line:
    text = f"{event.count} dead letters of queue {event.queue} were deleted: they {_EVICTED[event.reason]}"
    fields = {"queue": event.queue, "count": event.count, "reason": event.reason, "oldest": event.oldest}
    return Line(logging.WARNING, f"{text}. The oldest was {event.oldest}", fields)


def _copies_forgotten(event: events.CopiesForgotten) -> Line:
    text = f"queue {event.queue} was deleted, with its copies of what was sent to {event.broadcast}: its worker is gone"
    return Line(logging.INFO, text, {"queue": event.queue, "broadcast": event.broadcast})


#: How each class of events is told. `TELLERS` decides; the tests ask that no class is missing.
TELLERS: Final[Mapping[type[events.Event], Teller]] = {
    events.TaskSent: Teller(logging.DEBUG, _sent),
    events.TaskReceived: Teller(logging.INFO, _received),
    events.TaskStarted: Teller(logging.DEBUG, _started),
    events.TaskSucceeded: Teller(logging.INFO, _succeeded),
    events.TaskFailed: Teller(logging.ERROR, _failed),
    events.TaskRetried: Teller(logging.INFO, _retried),
    events.TaskRejected: Teller(logging.WARNING, _rejected),
    events.TaskIgnored: Teller(logging.INFO, _ignored),
    events.TaskRevoked: Teller(logging.INFO, _revoked),
    events.TaskUnknown: Teller(logging.ERROR, _unknown),
    events.TaskUnreadable: Teller(logging.ERROR, _unreadable),
    events.TaskOverran: Teller(logging.ERROR, _overran),
    events.TaskBlocksLoop: Teller(logging.WARNING, _blocks_loop),
    events.TaskLost: Teller(logging.WARNING, _lost),
    events.HookFailed: Teller(logging.ERROR, _hook_failed),
    events.TaskStateNotStored: Teller(logging.WARNING, _state_not_stored),
    events.WorkerStarting: Teller(logging.DEBUG, _worker_starting),
    events.WorkerReady: Teller(logging.INFO, _worker_ready),
    events.WorkerScaled: Teller(logging.INFO, _worker_scaled),
    events.WorkerStopping: Teller(logging.INFO, _worker_stopping),
    events.WorkerStopped: Teller(logging.ERROR, _worker_stopped),
    events.ChildReady: Teller(logging.DEBUG, _child_ready),
    events.ChildDraining: Teller(logging.DEBUG, _child_draining),
    events.ChildImported: Teller(logging.INFO, _child_imported),
    events.ChildImportFailed: Teller(logging.ERROR, _child_import_failed),
    events.ChildRecycled: Teller(logging.INFO, _child_recycled),
    events.ChildDied: Teller(logging.ERROR, _child_died),
    events.BrokerLost: Teller(logging.ERROR, _broker_lost),
    events.BrokerCaution: Teller(logging.WARNING, _broker_caution),
    events.BrokerBack: Teller(logging.WARNING, _broker_back),
    events.BrokerChanged: Teller(logging.WARNING, _broker_changed),
    events.MessagesMoved: Teller(logging.INFO, _messages_moved),
    events.LeaseWasLost: Teller(logging.WARNING, _lease_lost),
    events.DeadLettersEvicted: Teller(logging.WARNING, _dead_letters_evicted),
    events.CopiesForgotten: Teller(logging.INFO, _copies_forgotten),
}


# ---- values


def _result_size(run: Any) -> int:
    size = getattr(getattr(run, "task_object", None), "resultrepr_maxsize", RESULT_SIZE)
    return size if isinstance(size, int) else RESULT_SIZE


def brief(value: Any, size: int) -> str:
    """The value as text of at most about `size` characters, at a cost that does not grow with the value."""
    try:
        text = "".join(_pieces(value, size, 4))
    except Exception as exc:  # noqa: BLE001 - user code: a line must be written all the same
        return f"<{type(value).__name__}: its text cannot be had: {type(exc).__name__}>"
    return text if len(text) <= size else f"{text[: max(size - 3, 0)]}..."


def _pieces(value: Any, size: int, depth: int) -> list[str]:
    kind = type(cast("object", value))
    if kind is str or kind is bytes:
        return [repr(value) if len(value) <= size else repr(value[: size + 1])]
    if kind not in _BRACKETS or not value:
        return [repr(value)]
    if depth == 0:
        return [_BRACKETS[kind][0], "...", _BRACKETS[kind][1]]
    opening, closing = _BRACKETS[kind]
    pieces, used = [opening], len(opening)
    items = cast("dict[Any, Any]", value).items() if kind is dict else value
    for place, item in enumerate(items):
        if used > size:
            break
        new = [", "] if place else []
        if kind is dict:
            new += [
                *_pieces(item[0], size - used, depth - 1),
                ": ",
                *_pieces(item[1], size - used, depth - 1),
            ]
        else:
            new += _pieces(item, size - used, depth - 1)
        pieces += new
        used += sum(map(len, new))
    if kind is tuple and len(value) == 1:
        pieces.append(",")
    return [*pieces, closing]


_BRACKETS: Final[Mapping[type, tuple[str, str]]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}
