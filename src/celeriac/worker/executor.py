"""One delivery, from decoded to settled. READ THIS FIRST.

`execute` runs a task in a slot and settles it. `settle` turns an outcome into one settlement, in which the order is
a guarantee: the result is stored, then the follow-up tasks are sent, then the message is acknowledged. The broker
keeps that order (`brokers.contract.Settlement`); nobody else acknowledges.

Nothing here takes messages, waits for anything, or knows which pool it runs in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock, message, states, stored
from celeriac.backend import lifetime
from celeriac.brokers.contract import Ack, Action, Bury, Outgoing, Record, Replace, Settlement
from celeriac.context import Request
from celeriac.events import (
    BUS,
    TaskFailed,
    TaskIgnored,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskStarted,
    TaskStateNotStored,
    TaskSucceeded,
)
from celeriac.exceptions import (
    BackendError,
    OperationalError,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
)
from celeriac.outcome import (
    Failure,
    Ignored,
    Outcome,
    Rejected,
    Retried,
    Revoked,
    Success,
    call,
    failed_without_running,
    text_of,
)
from celeriac.stored import Stored
from celeriac.wire import ChildBoard
from celeriac.worker import limits
from celeriac.worker.batch import BatchSize
from celeriac.worker.settler import Settler
from celeriac.workflow import follow

ACK: Final = Ack()


class Workbench:
    """What every run of this process needs: made once, read by all slots."""

    def __init__(
        self, app: Any, hostname: str, board: ChildBoard, settler: Settler, batch: BatchSize
    ) -> None:
        conf = app.conf
        self.app = app
        self.hostname = hostname
        self.pid = os.getpid()
        self.board = board
        self.settler = settler
        self.batch = batch
        #: One of the two is set, as the pool needs.
        self.signal_limits: limits.SignalLimits | None = None
        self.thread_limits: limits.ThreadLimits | None = None
        #: Whether messages wait in this process for a slot; then ends of runs may wait for each other.
        self.has_waiting: Callable[[], bool] = bool
        self.result_ttl: float | None = lifetime(conf, states.SUCCESS)
        self.failure_ttl: float | None = lifetime(conf, states.FAILURE)
        self.result_serializer: str = conf.result_serializer
        self.result_compression: str | None = conf.result_compression
        self.result_accept: frozenset[str] = frozenset(conf.result_accept_content or conf.accept_content)
        self.result_extended: bool = conf.result_extended


def execute(request: Request, bench: Workbench, slot: int) -> None:
    """Run one task and settle it. Never raises for what user code does: that becomes an Outcome.

    If this process dies inside, the lease ends and the broker delivers again.
    """
    task = request.task_object
    soft, hard = limits.of(request)
    if not bench.batch.is_short(task.name):
        bench.settler.flush()
    if task.track_started:
        _store_started(request, bench)
    started = clock.monotonic()
    if BUS.wanted(TaskStarted):
        BUS.emit(TaskStarted(request.id, task.name, request))
    _begin(request, bench, slot, started, soft, hard)
    try:
        outcome = call(task, request)
    except SoftTimeLimitExceeded as exc:
        # In threads it can arrive just behind user code.
        outcome = Failure(exc, text_of(exc))
    if not _lift_limits(request, bench, slot, started, bool(soft or hard)):
        return
    runtime = clock.monotonic() - started
    bench.batch.observe(task.name, runtime)
    settle(request, outcome, bench, runtime)
    # Not before: what kills the process while its end is written (a result, a follow-up) is to blame as well.
    bench.board.end(slot)


def _begin(
    request: Request, bench: Workbench, slot: int, started: float, soft: float | None, hard: float | None
) -> None:
    """Write the run on the board, and set its limits."""
    soft_at = hard_at = 0.0
    if soft or hard:
        soft_at, hard_at = (started + soft if soft else 0.0), (started + hard if hard else 0.0)
        if bench.thread_limits is not None:
            bench.thread_limits.begin(slot, request, started, soft, hard)
            soft_at, hard_at = 0.0, (hard_at + limits.NET if hard_at else 0.0)
    delivery = request.delivery
    assert delivery is not None
    bench.board.begin(slot, delivery.key, request.task_object.name.encode(), started, soft_at, hard_at)
    if bench.signal_limits is not None:
        bench.signal_limits.begin(request, started, soft)


def _lift_limits(request: Request, bench: Workbench, slot: int, started: float, limited: bool) -> bool:
    """User code has ended. False: its hard limit came first, and the run was settled as overrun."""
    if bench.signal_limits is not None:
        bench.signal_limits.end()
    if not limited:
        return True
    if bench.thread_limits is not None and not bench.thread_limits.end(slot, request):
        return False
    delivery = request.delivery
    assert delivery is not None
    bench.board.begin(slot, delivery.key, request.task_object.name.encode(), started, 0.0, 0.0)
    return True


def overran(request: Request, limit: float, bench: Workbench) -> None:
    """Settle a run that passed its hard limit, here or in a process that was killed for it."""
    task = request.task_object
    outcome = failed_without_running(
        task, request, TimeLimitExceeded(f"hard time limit of {limit:g} s exceeded")
    )
    settle(request, outcome, bench, limit)
    bench.settler.flush()


def settle(request: Request, outcome: Outcome, bench: Workbench, runtime: float) -> None:
    """Store the result, send the follow-ups, end the delivery: one settlement, in that order."""
    bench.settler.add(_settlement(request, outcome, bench))
    announce(request, outcome, runtime)
    if bench.settler.is_due() or not bench.has_waiting():
        bench.settler.flush()


def _settlement(request: Request, outcome: Outcome, bench: Workbench) -> Settlement:
    assert request.delivery is not None
    delivery, task = request.delivery, request.task_object
    if isinstance(outcome, Success) and not request.is_chained and _ignores(request):
        return Settlement(delivery, ACK)
    try:
        sends = follow.follow_ups(task, request, outcome)
        records = _records(request, outcome, bench)
    except Exception as exc:  # noqa: BLE001 - follow-ups pass through user code
        # What it returned can be neither stored nor handed on: that is how this run failed.
        outcome = Failure(exc, text_of(exc))
        sends, records = [], _records(request, outcome, bench)
    return Settlement(delivery, _action(request, outcome, bench), sends, records)


def _action(request: Request, outcome: Outcome, bench: Workbench) -> Action:
    """What becomes of the message."""
    task = request.task_object
    match outcome:
        case Retried(retry):
            return Replace(bench.app.producer.outgoing(retry.sig))
        case Rejected(_, requeue=True):
            return Replace(_put_back(request, bench))
        case Rejected(reason):
            return Bury("rejected", reason)
        case Failure(error) if not task.acks_on_failure_or_timeout:
            return Bury("failed", f"{type(error).__name__}: {error}")
        case _:
            return ACK


def _put_back(request: Request, bench: Workbench) -> Outgoing:
    """The same message for the end of its queue: at the head it would come back before anything else."""
    assert request.delivery is not None and request.message is not None
    options = msgspec.structs.replace(request.options, redelivered=True)
    successor = msgspec.structs.replace(request.message, options=options)
    data = message.encode(successor, bench.app.conf.accept_content)
    return Outgoing(request.delivery.queue, data, options.priority)


def _ignores(request: Request) -> bool:
    asked = request.options.ignore_result
    return bool(request.task_object.ignore_result if asked is None else asked)


def _records(request: Request, outcome: Outcome, bench: Workbench) -> Sequence[Record]:
    """The record to store, if this outcome of this task is to be stored."""
    ignores = _ignores(request)
    if ignores and not (
        isinstance(outcome, Failure | Revoked | Rejected) and request.task_object.store_errors_even_if_ignored
    ):
        return ()
    match outcome:
        case Success(result):
            record = Stored(states.SUCCESS, result, clock.now())
        case Failure(error, text):
            record = Stored(states.FAILURE, error, clock.now(), text)
        case Retried(retry, text):
            record = Stored(states.RETRY, retry.exc or retry, None, text)
        case Rejected(reason, requeue=False):
            # It will never run again: whoever waits for it is told so.
            record = Stored(states.FAILURE, Reject(reason), clock.now())
        case Revoked(reason):
            record = Stored(states.REVOKED, TaskRevokedError(reason), clock.now())
        case _:
            return ()
    own = _record(request, record, bench)
    if record.state != states.FAILURE:
        return (own,)
    # The later steps of a chain never run: whoever waits for one of them is told why.
    return (own, *(Record(key, own.data, own.ttl) for key in follow.abandoned(request)))


def _record(request: Request, record: Stored, bench: Workbench) -> Record:
    assert request.delivery is not None
    if "children" in request.__dict__ and request.children:
        record.children = [child.as_tuple() for child in request.children]
    if bench.result_extended:
        record.name = request.task_object.name
        record.args, record.kwargs = request.args, request.kwargs
        record.worker, record.retries = bench.hostname, request.retries
        record.queue = request.delivery.queue
        record.parent_id, record.group_id = request.parent_id, request.group
    data = stored.encode(record, bench.result_serializer, bench.result_accept, bench.result_compression)
    ttl = bench.failure_ttl if record.state == states.FAILURE else bench.result_ttl
    return Record(request.delivery.key, data, ttl)


def _store_started(request: Request, bench: Workbench) -> None:
    """`track_started`: the one record that is written before the end, if the delivery is still ours.

    A result store that is away holds up no run: the state is missing then, and that is told.
    """
    if _ignores(request):
        return
    record = Stored(states.STARTED, {"pid": bench.pid, "hostname": bench.hostname})
    try:
        if request.is_ours():
            bench.app.backend.put([_record(request, record, bench)])
    except (OperationalError, BackendError) as exc:
        BUS.emit(TaskStateNotStored(request.id, request.task_object.name, states.STARTED, str(exc)))


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
            BUS.emit(TaskRevoked(task_id, name, reason, expired, terminated))
