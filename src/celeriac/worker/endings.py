"""Ends of deliveries whose task does not run here: verdicts that are carried out, and messages that are buried.

Whoever waits for a task is told that it will never run, in the same settlement that makes its message a dead letter:
a `FAILURE` that says why and by which command the letter is shown. `consumer.admit` decides; what is settled here takes
the road of `executor.settle`, follow-ups included.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from celeriac import clock, message, states, stored
from celeriac.brokers.contract import CRASHED, Bury, Delivery, Record, Revocation, Settlement
from celeriac.brokers.contract import TERMINATED as ENDED
from celeriac.context import Request
from celeriac.control import revoking
from celeriac.events import BUS, TaskUnknown, TaskUnreadable
from celeriac.exceptions import DecodeError, NotRegistered, WorkerLostError
from celeriac.outcome import TERMINATED, Failure, failed_without_running
from celeriac.stored import Stored
from celeriac.worker import executor
from celeriac.worker.executor import Workbench

_DIED: Final = "the process that ran the task died"


class _Stranger(msgspec.Struct, frozen=True):
    """Stands for a task that is not known here: what a settlement asks of one, as the settings say."""

    app: Any
    name: str
    ignore_result: bool
    store_errors_even_if_ignored: bool
    acks_on_failure_or_timeout: bool = True
    trail: bool = False


def carry_out(verdict: str, request: Request, bench: Workbench, slot: int) -> None:
    """Settle what was decided elsewhere, in a slot and on the board like a run.

    For hooks and error callbacks are user code, and what dies of them must be counted.
    """
    task, delivery = request.task_object, request.delivery
    assert delivery is not None
    bench.board.begin(slot, delivery.key, task.name.encode(), clock.monotonic(), 0.0, 0.0)
    kind, _, detail = verdict.partition(":")
    if kind == "time_limit":
        executor.overran(request, float(detail), bench)
    else:
        is_buried = kind == CRASHED
        text = _buried(detail, request.id) if is_buried else f"{_DIED}: {detail}" if detail else _DIED
        outcome = failed_without_running(task, request, WorkerLostError(text))
        executor.settle(request, outcome, bench, 0.0, Bury(CRASHED, detail) if is_buried else None)
        bench.settler.flush()
    bench.board.end(slot)


def bury_unreadable(delivery: Delivery, exc: DecodeError, bench: Workbench) -> None:
    """A message that cannot be decoded becomes a dead letter with its bytes."""
    task_id, name = message.peek(delivery.data)
    burial = _burial(delivery, "unreadable", f"{type(exc).__name__}: {exc}")
    records: list[Record] = []
    conf = bench.app.conf
    # Whether this call's result is ignored stands in what cannot be read.
    if task_id and (conf.task_store_errors_even_if_ignored or not conf.task_ignore_result):
        error = DecodeError(_buried(burial.detail, task_id))
        record = Stored(states.FAILURE, error, clock.now(), _text_of(error))
        data = stored.encode(record, bench.result_serializer, bench.result_accept, bench.result_compression)
        records.append(Record(delivery.key, data, bench.failure_ttl))
    bench.settler.add(Settlement(delivery, burial, records=records))
    BUS.emit(TaskUnreadable(task_id or "?", name, str(exc), exc, delivery))


def end_revoked(verdict: str, delivery: Delivery, decoded: message.Message, bench: Workbench) -> None:
    """A message whose task was revoked, be the task known here or not. No user code is called."""
    request = _request(delivery, decoded, bench)
    executor.settle(request, TERMINATED if verdict == ENDED else executor.REVOKED, bench, 0.0)


def revoke_again(key: bytes, queue: str, bench: Workbench) -> None:
    """A task that went back to its queue just when it was revoked: it ends there, as if it had waited."""
    keep: float = bench.app.conf.worker_revoke_expires
    revoking.tell_results(bench.app, bench.app.reader.revoke(queue, [Revocation(key)], keep))


def bury_unknown(delivery: Delivery, decoded: message.Message, bench: Workbench) -> None:
    """A message whose task no worker has known for `task_unknown_grace` becomes a dead letter."""
    BUS.emit(TaskUnknown(decoded.id, decoded.task, False, delivery))
    detail = f"no worker of this queue knows the task {decoded.task!r}"
    if bench.app.modules is not None and (broken := bench.app.modules.broken()):
        detail += f"; these modules could not be imported: {', '.join(broken)}"
    _bury_stranger(delivery, decoded, _burial(delivery, "unknown task", detail), NotRegistered, bench)


def bury_unimportable(
    delivery: Delivery, decoded: message.Message, error: Exception, bench: Workbench
) -> None:
    """A message whose task's module cannot be imported becomes a dead letter, to be replayed when that is mended."""
    _bury_stranger(delivery, decoded, _burial(delivery, "import failed", str(error)), type(error), bench)


def bury_crashed(delivery: Delivery, decoded: message.Message, bench: Workbench) -> None:
    """A message that has killed its processes becomes a dead letter, with its task's module left alone."""
    detail = (delivery.verdict or "").partition(":")[2]
    _bury_stranger(delivery, decoded, Bury(CRASHED, detail), WorkerLostError, bench)


def _bury_stranger(
    delivery: Delivery, decoded: message.Message, burial: Bury, kind: type[Exception], bench: Workbench
) -> None:
    """Settle the end of a task that is not known here: whoever waits for it is told."""
    request = _request(delivery, decoded, bench)
    error = kind(_buried(burial.detail, decoded.id))
    executor.settle(request, Failure(error, _text_of(error)), bench, 0.0, burial)


def _request(delivery: Delivery, decoded: message.Message, bench: Workbench) -> Request:
    """Of the task of that name, or of one that stands for it."""
    request = Request(decoded, delivery, bench.hostname)
    conf = bench.app.conf
    request.task_object = bench.app.tasks.get(decoded.task) or _Stranger(
        bench.app, decoded.task, conf.task_ignore_result, conf.task_store_errors_even_if_ignored
    )
    return request


def _burial(delivery: Delivery, reason: str, detail: str) -> Bury:
    """For that reason, unless the message is to be buried for another."""
    kind, _, crashes = (delivery.verdict or "").partition(":")
    return Bury(CRASHED, crashes) if kind == CRASHED else Bury(reason, detail)


def _buried(why: str, task_id: str) -> str:
    return f"{why}. The message is a dead letter: `celeriac dead show {task_id}`"


def _text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}\n"
