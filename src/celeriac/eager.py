"""Running a task in its caller: `Task.apply`, and every send while `task_always_eager` is on.

The call goes through the same serializer and the same `outcome.call` as in a worker, so that what would fail there
fails here. Retries follow at once, without their delay.
"""

from __future__ import annotations

from typing import Any, assert_never

from celeriac import clock, message, outcome, states
from celeriac.async_result import EagerResult
from celeriac.context import Request
from celeriac.events import BUS, TaskRan
from celeriac.exceptions import TaskRevokedError
from celeriac.outcome import Failure, Ignored, Outcome, Rejected, Retried, Revoked, Success
from celeriac.producer import Call
from celeriac.stored import Stored
from celeriac.workflow import follow


def run_here(app: Any, task: Any, call: Call, throw: bool | None) -> EagerResult:
    """Run a call and what follows it. With `throw` (None: `task_eager_propagates`) its exception is raised."""
    throw = app.conf.task_eager_propagates if throw is None else throw
    while True:
        request = Request(_travelled(app, call), None, "localhost", is_eager=True)
        request.update(delivery_info={**request.delivery_info, "routing_key": call.queue})
        request.task_object = task
        started = clock.monotonic()
        ended = _run(task, request)
        runtime = clock.monotonic() - started
        if not isinstance(ended, Retried) or ended.retry.sig is None:
            break
        _tell(task, request, ended, runtime)
        call = ended.retry.sig
    result = _result_of(task, request, ended)
    if task.store_eager_result and not isinstance(ended, Ignored | Rejected):
        record = Stored(result.state, result.result, clock.now(), result.traceback)
        app.backend.store_record(result.id, record)
    follow.send_follow_ups(task, request, ended)
    _tell(task, request, ended, runtime)
    if throw:
        match ended:
            case Failure(error):
                raise error
            case Retried(retry):
                raise retry
            case _:
                pass
    return result


def _travelled(app: Any, call: Call) -> message.Message:
    """The message as it would arrive."""
    accept = app.conf.accept_content
    return message.decode(app.producer.written(call).data, accept)


def _run(task: Any, request: Request) -> Outcome:
    options = request.options
    if options.expires is not None and options.expires <= clock.now():
        return Revoked("expired", expired=True)
    return outcome.call(task, request)


def _tell(task: Any, request: Request, ended: Outcome, runtime: float) -> None:
    outcome.announce(request, ended, runtime)
    if BUS.wanted(TaskRan) and not isinstance(ended, Revoked):
        BUS.emit(TaskRan(str(request.id), task.name, request, ended))


def _result_of(task: Any, request: Request, ended: Outcome) -> EagerResult:
    task_id = str(request.id)
    match ended:
        case Success(value):
            return EagerResult(task_id, value, states.SUCCESS, None, task.name)
        case Failure(error, text):
            return EagerResult(task_id, error, states.FAILURE, text, task.name)
        case Retried(retry, text):
            return EagerResult(task_id, retry, states.RETRY, text, task.name)
        case Rejected(reason):
            return EagerResult(task_id, reason, states.REJECTED, None, task.name)
        case Ignored():
            return EagerResult(task_id, None, states.IGNORED, None, task.name)
        case Revoked(reason):
            return EagerResult(task_id, TaskRevokedError(reason), states.REVOKED, None, task.name)
        case _:
            assert_never(ended)
