"""One delivery, from decoded to settled. READ THIS FIRST.

`execute` runs a task in a slot and settles it. `settle` turns an outcome into one settlement, in which the order is
a guarantee: the result is stored, then the follow-up tasks are sent, then the message is acknowledged. The broker
keeps that order (`brokers.contract.Settlement`); nobody else acknowledges.

Nothing here takes messages, waits for anything, or knows which pool it runs in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from celeriac import clock, message, states, stored
from celeriac.async_result import AsyncResult
from celeriac.backend import lifetime
from celeriac.board import ChildBoard
from celeriac.brokers.contract import Ack, Action, Bury, Outgoing, Record, Replace, Settlement
from celeriac.context import Request, running
from celeriac.events import BUS, TaskRan, TaskSent, TaskStateNotStored
from celeriac.exceptions import (
    BackendError,
    OperationalError,
    Reject,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
)
from celeriac.outcome import (
    TERMINATED,
    Failure,
    Outcome,
    Rejected,
    Retried,
    Revoked,
    Success,
    announce,
    call,
    call_awaited,
    failed_without_running,
    text_of,
)
from celeriac.producer import Call
from celeriac.result_sets import GroupResult
from celeriac.stored import Stored
from celeriac.worker import limits
from celeriac.worker.batch import BatchSize
from celeriac.worker.revoked import RevokedHere
from celeriac.worker.settler import Settler
from celeriac.workflow import follow, joining

ACK: Final = Ack()
#: A task that began no run because it was revoked.
REVOKED: Final = Revoked("revoked")


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
        self.revoked = RevokedHere()
        #: What runs, by slot: for who asks; the board has when it began. A slot writes its own.
        self.runs: dict[int, Request] = {}
        #: How many have run here, by the task's name; a lost update is harmless.
        self.counts: dict[str, int] = {}
        #: Whether runs take turns in the main thread: then SIGUSR1 reaches one that does not let others come round.
        self.has_loop = False
        #: Whether messages wait in this process for a slot; then ends of runs may wait for each other.
        self.has_waiting: Callable[[], bool] = bool
        self.result_ttl: float | None = lifetime(conf, states.SUCCESS)
        self.failure_ttl: float | None = lifetime(conf, states.FAILURE)
        self.result_serializer: str = conf.result_serializer
        self.result_compression: str | None = conf.result_compression
        self.result_accept: frozenset[str] = frozenset(conf.result_accept_content or conf.accept_content)
        self.result_extended: bool = conf.result_extended

    def encode(self, record: Stored) -> bytes:
        """The bytes of a record, as the settings want it. Raises: EncodeError."""
        return stored.encode(record, self.result_serializer, self.result_accept, self.result_compression)


def execute(request: Request, bench: Workbench, slot: int) -> None:
    """Run one task and settle it. Never raises for what user code does: that becomes an Outcome.

    If this process dies inside, the lease ends and the broker delivers again.
    """
    started = clock.monotonic()
    outcome: Outcome | None = None
    try:
        started = _open(request, bench, slot)
        outcome = _before(request, bench) or call(request.task_object, request)
        runtime = _user_code_ended(request, bench, slot, started)
    except (SoftTimeLimitExceeded, Terminated) as exc:
        # It can arrive just before user code, or just behind it.
        outcome = outcome or _told(exc)
        runtime = _user_code_ended(request, bench, slot, started)
    if runtime is not None:
        _close(request, outcome, bench, slot, runtime)


class AwaitedRun:
    """`execute` in three parts, for pools that await coroutines: only the user's code is on the loop."""

    __slots__ = ("_bench", "_outcome", "_request", "_runtime", "_slot", "_started")

    def __init__(self, request: Request, bench: Workbench) -> None:
        self._request = request
        self._bench = bench
        self._slot = 0
        self._started = 0.0
        #: Set before user code where that is not to run.
        self._outcome: Outcome | None = None
        self._runtime: float | None = None

    def open(self, slot: int) -> None:
        """See `pools.contract.AwaitedRun`, as for the others."""
        self._slot = slot
        self._started = _open(self._request, self._bench, slot)
        self._outcome = _before(self._request, self._bench)

    async def work(self) -> None:
        """Nothing in it waits for a server."""
        try:
            self._outcome = self._outcome or await call_awaited(self._request.task_object, self._request)
        except (SoftTimeLimitExceeded, Terminated) as exc:
            self._outcome = self._outcome or _told(exc)
        self._runtime = _user_code_ended(self._request, self._bench, self._slot, self._started)

    def close(self, slot: int) -> None:
        """Settle it, unless that was done at its hard limit."""
        if self._runtime is not None and self._outcome is not None:
            _close(self._request, self._outcome, self._bench, slot, self._runtime)


def _open(request: Request, bench: Workbench, slot: int) -> float:
    """All that comes before user code; when that began (monotonic)."""
    task = request.task_object
    soft, hard = limits.of(request)
    if not bench.batch.is_short(task.name):
        bench.settler.flush()
    if task.track_started:
        _store_started(request, bench)
    started = clock.monotonic()
    _begin(request, bench, slot, started, soft, hard)
    return started


def _user_code_ended(request: Request, bench: Workbench, slot: int, started: float) -> float | None:
    """How long it took; None: the run was given up before, and settled."""
    soft, hard = limits.of(request)
    if not _lift_limits(request, bench, slot, started, bool(soft or hard)):
        return None
    runtime = clock.monotonic() - started
    bench.batch.observe(request.task_object.name, runtime)
    return runtime


def _close(request: Request, outcome: Outcome, bench: Workbench, slot: int, runtime: float) -> None:
    """All that comes behind user code."""
    if type(outcome) is Retried and request.key in bench.revoked:
        outcome = REVOKED
    outcome = settle(request, outcome, bench, runtime)
    if BUS.wanted(TaskRan):
        BUS.emit(TaskRan(request.id, request.task_object.name, request, outcome))
    # Not before: what kills the process while its end is written (a result, a follow-up) is to blame as well.
    bench.board.end(slot)
    name = request.task_object.name
    bench.counts[name] = bench.counts.get(name, 0) + 1
    if bench.runs.get(slot) is request:
        del bench.runs[slot]


def _gather(request: Request, bench: Workbench) -> Outcome | None:
    """What the tasks before it have returned, where it waited for several; a store that is away is waited for, as when
    a run ends. An outcome where that cannot be had."""
    if not request.options.join:
        return None
    return bench.settler.patiently(lambda: joining.gather(request, bench.result_accept))


def _before(request: Request, bench: Workbench) -> Outcome | None:
    """What decides the end of a run whose user code is not to begin; None: it begins."""
    # Asked here, where whoever revokes it can see already that it runs.
    if bench.revoked and request.key in bench.revoked:
        return REVOKED
    return _gather(request, bench)


def _told(exc: BaseException) -> Outcome:
    """The end of a run that was told of a limit, or of its end, beside its user code."""
    return TERMINATED if isinstance(exc, Terminated) else Failure(exc, text_of(exc))


def _begin(
    request: Request, bench: Workbench, slot: int, started: float, soft: float | None, hard: float | None
) -> None:
    """Write the run on the board, and set its limits."""
    soft_at = hard_at = 0.0
    if bench.thread_limits is not None:
        bench.thread_limits.begin(slot, request, started, soft, hard)
    if soft or hard:
        soft_at, hard_at = (started + soft if soft else 0.0), (started + hard if hard else 0.0)
        if bench.thread_limits is not None:
            soft_at = soft_at + limits.SOFT_NET if soft_at and bench.has_loop else 0.0
    delivery = request.delivery
    assert delivery is not None
    bench.runs[slot] = request
    bench.board.begin(slot, delivery.key, request.task_object.name.encode(), started, soft_at, hard_at)
    if bench.signal_limits is not None:
        bench.signal_limits.begin(request, started, soft)


def _lift_limits(request: Request, bench: Workbench, slot: int, started: float, limited: bool) -> bool:
    """User code has ended. False: the run was given up before that, and settled."""
    if bench.signal_limits is not None:
        bench.signal_limits.end()
    if bench.thread_limits is not None and not bench.thread_limits.end(slot, request):
        return False
    if not limited:
        return True
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


def terminated(request: Request, bench: Workbench) -> None:
    """Settle a run that went on after it was revoked, here or in a process that was killed for it."""
    settle(request, TERMINATED, bench, 0.0)
    bench.settler.flush()


def settle(
    request: Request, outcome: Outcome, bench: Workbench, runtime: float, action: Action | None = None
) -> Outcome:
    """Store the result, send the follow-ups, end the delivery: one settlement, in that order.

    Returns how the run ended: one whose end can be neither stored nor handed on has failed.

    `action`: what becomes of the message, where that does not follow from the outcome.
    """
    settlement, outcome, calls = _settlement(request, outcome, bench)
    if action is not None:
        settlement = msgspec.structs.replace(settlement, action=action)
    if calls and BUS.wanted(TaskSent):
        bench.settler.add(settlement, lambda: bench.app.producer.announce(calls))
    else:
        bench.settler.add(settlement)
    announce(request, outcome, runtime)
    if bench.settler.is_due() or not bench.has_waiting():
        bench.settler.flush()
    return outcome


def _settlement(
    request: Request, outcome: Outcome, bench: Workbench
) -> tuple[Settlement, Outcome, Sequence[Call]]:
    """The settlement, how the run ended, and the calls that are sent by it."""
    assert request.delivery is not None
    delivery, task, producer = request.delivery, request.task_object, bench.app.producer
    if isinstance(outcome, Success) and not request.is_chained and _ignores(request):
        return Settlement(delivery, ACK), outcome, ()
    try:
        calls = follow.follow_ups(task, request, outcome)
        if calls:
            with running(task, request):
                calls = [producer.offered(call) for call in calls]
        sends = [producer.written(call) for call in calls]
        records = _records(request, outcome, bench)
        arrivals = joining.arrivals(request, outcome, bench.encode)
    except Exception as exc:  # noqa: BLE001 - follow-ups pass through user code
        # What it returned can be neither stored nor handed on: that is how this run failed.
        outcome = Failure(exc, text_of(exc))
        calls, sends, records = [], [], _records(request, outcome, bench)
        request.opened = []
        arrivals = joining.arrivals(request, outcome, bench.encode)
    action = _action(request, outcome, bench)
    used = joining.used(request) if action is ACK else ()
    if isinstance(outcome, Retried):
        calls = [outcome.retry.sig]
    return Settlement(delivery, action, sends, records, arrivals, used, request.opened), outcome, calls


def _action(request: Request, outcome: Outcome, bench: Workbench) -> Action:
    """What becomes of the message."""
    task = request.task_object
    match outcome:
        case Retried(retry):
            with running(task, request):
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
    return Outgoing(request.delivery.queue, data, options.priority, transient=options.transient)


def _ignores(request: Request) -> bool:
    if request.progress is not None:
        return False  # it must not look for ever as if it went on
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
            if isinstance(result, AsyncResult | GroupResult):
                result = cast("Any", result).as_tuple()
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
    if record.state not in (states.FAILURE, states.REVOKED):
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
    data = bench.encode(record)
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
        request.note(_record(request, record, bench), bench.app.backend)
    except (OperationalError, BackendError) as exc:
        BUS.emit(TaskStateNotStored(request.id, request.task_object.name, states.STARTED, str(exc)))
