"""Running tasks in their caller: `Task.apply`, `apply` of workflows, and every send while `task_always_eager` is on.

A workflow is sent as ever, but to this module: each call goes through the same serializer, the same `outcome.call` and
the same joins as in a worker, so that what would fail there fails here. Calls run one after another, each with what
follows it before its neighbour. Retries follow at once, without their delay.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, assert_never

from celeriac import clock, context, message, outcome, states, stored, urls
from celeriac.async_result import EagerResult
from celeriac.brokers.contract import Outgoing
from celeriac.context import Request
from celeriac.events import BUS, TaskRan
from celeriac.exceptions import EncodeError, TaskRevokedError
from celeriac.outcome import Failure, Ignored, Outcome, Rejected, Retried, Revoked, Success
from celeriac.producer import Call
from celeriac.result_sets import GroupResult
from celeriac.results.memory import MemoryResults
from celeriac.stored import Stored
from celeriac.workflow import follow, joining

_ENDED_BADLY: Final = frozenset({states.FAILURE, states.REVOKED})


def run_here(app: Any, task: Any, call: Call, throw: bool | None) -> EagerResult:
    """Run a call. What follows it runs here too where everything does, else it is sent.

    With `throw` (None: `task_eager_propagates`) its exception is raised, or that of what ran behind it.
    """
    stage = _Stage(app, is_whole=app.conf.task_always_eager)
    stage.tasks[task.name] = task
    stage.run([call], throw)
    return stage.result_of(call.message.id, call.message.key, task.name)


def run_workflow(app: Any, send: Callable[[], Any], throw: bool | None) -> Any:
    """Run all that `send` sends, and what follows. Its result, with everything that it knows as it ended.

    With `throw` (None: `task_eager_propagates`) the first exception is raised, when all has run.
    """
    stage = _Stage(app, is_whole=True)
    with stage.joined(), context.collecting() as calls:
        result = send()
    stage.run(calls, throw)
    return stage.ended(result)


class _Stage:
    """Where the calls of one caller run. `is_whole`: what follows a run, runs here too."""

    def __init__(self, app: Any, *, is_whole: bool) -> None:
        self.app = app
        #: By name, tasks that need not be the application's.
        self.tasks: dict[str, Any] = {}
        self._is_whole = is_whole
        # A task that sends members of a chord from here runs them on a stage of their own: they meet at the same joins.
        self._joins: MemoryResults = context.JOINS.get() or MemoryResults(
            urls.parse(f"memory://eager-{os.getpid()}"), {}
        )
        self._records: dict[bytes, Stored] = {}
        self._errors: list[BaseException] = []
        conf = app.conf
        self._accept = frozenset(conf.result_accept_content or conf.accept_content)

    def joined(self) -> Any:
        """A block in which joins are opened here."""
        return context.set_in(context.JOINS, self._joins)

    def run(self, calls: Iterable[Call], throw: bool | None) -> None:
        """Run calls, and all that follows. Raises: see `run_workflow`."""
        throw = self.app.conf.task_eager_propagates if throw is None else throw
        with self.joined(), context.set_in(context.COLLECTED, None):
            waiting = deque(self._written(calls))
            while waiting:
                waiting.extendleft(reversed(self._run_one(waiting.popleft())))
        if throw and self._errors:
            raise self._errors[0]

    def _written(self, calls: Iterable[Call]) -> list[Outgoing]:
        return [self.app.producer.written(call) for call in calls]

    def _run_one(self, outgoing: Outgoing) -> Sequence[Outgoing]:
        """Run a message. What is to run behind it."""
        came = message.decode(outgoing.data, self.app.conf.accept_content)
        request = Request(came, None, "localhost", is_eager=True)
        request.update(delivery_info={**request.delivery_info, "routing_key": outgoing.queue})
        task = request.task_object = self.tasks.get(came.task) or self.app.tasks[came.task]
        started = clock.monotonic()
        ended = self._outcome(task, request)
        runtime = clock.monotonic() - started
        if isinstance(ended, Retried) and ended.retry.sig is not None:
            _tell(task, request, ended, runtime)
            return self._written([ended.retry.sig])
        try:
            arrivals = joining.arrivals(request, ended, self._encode)
        except EncodeError as exc:
            ended = Failure(exc, outcome.text_of(exc))
            arrivals = joining.arrivals(request, ended, self._encode)
        self._note(task, request, ended)
        behind = [*self._follow_ups(task, request, ended), *self._joins.arrive(arrivals)]
        self._joins.end_joins(joining.used(request))
        _tell(task, request, ended, runtime)
        return behind

    def _outcome(self, task: Any, request: Request) -> Outcome:
        expires = request.options.expires
        if expires is not None and expires <= clock.now():
            return Revoked("expired", expired=True)
        gathered = joining.gather(request, self._accept) if request.options.join else None
        return gathered or outcome.call(task, request)

    def _follow_ups(self, task: Any, request: Request, ended: Outcome) -> list[Outgoing]:
        # What takes a run's place belongs to it, up to its end.
        self._is_whole = self._is_whole or bool(request.replacement)
        if self._is_whole:
            return self._written(follow.follow_ups(task, request, ended))
        follow.send_follow_ups(task, request, ended)
        return []

    def _encode(self, record: Stored) -> bytes:
        conf = self.app.conf
        return stored.encode(record, conf.result_serializer, self._accept, conf.result_compression)

    # -- results --------------------------------------------------------------------------------------------

    def _note(self, task: Any, request: Request, ended: Outcome) -> None:
        """Keep how a run ended, also for the steps behind it that will not run; store it where the task asks for it."""
        record = _record_of(ended)
        key = message.key_of(request.id)
        self._records[key] = record
        if isinstance(ended, Failure | Retried) and isinstance(record.result, BaseException):
            self._errors.append(record.result)
        if record.state in _ENDED_BADLY:
            self._records |= dict.fromkeys(follow.abandoned(request), record)
        if task.store_eager_result and not isinstance(ended, Ignored | Rejected):
            kept = Stored(record.state, record.result, clock.now(), record.traceback)
            self.app.backend.store_record(request.id, kept)

    def result_of(self, task_id: str, key: bytes, name: str | None) -> EagerResult:
        """The result of a task that ended here."""
        record = self._records[key]
        return EagerResult(task_id, record.result, record.state, record.traceback, name)

    def ended(self, result: Any) -> Any:
        """A result whose tasks ran here, with those before it."""
        found: list[Any] = []
        while result is not None:
            found.append(self._ended_one(result))
            result = result.parent
        for later, earlier in pairwise(found):
            later.parent = earlier
        return found[0] if found else None

    def _ended_one(self, result: Any) -> Any:
        if isinstance(result, GroupResult):
            return GroupResult(result.id, [self.ended(one) for one in result.results], None, self.app)
        # One whose chord never came to its end, as with a member that was put back.
        return (
            self.result_of(result.id, result.key, result.task_name) if result.key in self._records else result
        )


def _tell(task: Any, request: Request, ended: Outcome, runtime: float) -> None:
    outcome.announce(request, ended, runtime)
    if BUS.wanted(TaskRan) and not isinstance(ended, Revoked):
        BUS.emit(TaskRan(str(request.id), task.name, request, ended))


def _record_of(ended: Outcome) -> Stored:
    match ended:
        case Success(value):
            return Stored(states.SUCCESS, value)
        case Failure(error, text):
            return Stored(states.FAILURE, error, None, text)
        case Retried(retry, text):
            return Stored(states.RETRY, retry, None, text)
        case Rejected(reason):
            return Stored(states.REJECTED, reason)
        case Ignored():
            return Stored(states.IGNORED, None)
        case Revoked(reason):
            return Stored(states.REVOKED, TaskRevokedError(reason))
        case _:
            assert_never(ended)
