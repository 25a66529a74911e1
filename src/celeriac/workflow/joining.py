"""Joins: how the members of a chord, and the parts of a long chain, come together again (docs/design/0005).

A member carries its *seat* (option `chord`): the join's id, and its place there. When it ends for good, its result
arrives. The join's own message carries the join's id (option `join`): before it runs it gets the results, or it
fails with the one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from celeriac import context, message, states, stored
from celeriac.brokers.contract import Arrival, Join
from celeriac.context import Request, Sender
from celeriac.exceptions import ChordError, Ignore, Reject, TaskRevokedError
from celeriac.outcome import (
    REPEATED,
    Failure,
    Ignored,
    Outcome,
    Rejected,
    Retried,
    Revoked,
    Success,
    failed_without_running,
)
from celeriac.stored import Stored
from celeriac.workflow.signature import Signature

#: How results come to the task behind a join: as a list of all, or as the one value of a chain's last step.
AS_LIST: Final = "list"
AS_VALUE: Final = "value"

_NOTHING: Final[dict[str, Any]] = {}


# -- asking -------------------------------------------------------------------------------------------------


def take_seat(member: Signature, join_id: str, place: int) -> None:
    """Give a seat at the join to the signature with which this one ends."""
    end = end_of(member)
    end["options"] = {**(end.get("options") or _NOTHING), "chord": [join_id, place]}


def end_of(form: Mapping[str, Any]) -> dict[str, Any]:
    """The signature with whose result a signature ends: of a chain its last step, of a chord its body."""
    kwargs = form.get("kwargs") or _NOTHING
    match form.get("subtask_type"):
        case "chain" if kwargs["tasks"]:
            return end_of(kwargs["tasks"][-1])
        case "chord":
            return end_of(kwargs["body"])
        case _:
            return cast("dict[str, Any]", form)


def everything(form: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All plain signatures inside a signature."""
    kwargs = form.get("kwargs") or _NOTHING
    match form.get("subtask_type"):
        case "chain" | "group":
            for step in kwargs["tasks"]:
                yield from everything(step)
        case "chord":
            yield from everything(kwargs["header"])
            yield from everything(kwargs["body"])
        case _:
            yield form


def open_join(
    app: Sender,
    join_id: str,
    size: int | None,
    behind: Signature,
    mode: str = AS_LIST,
    parent_id: str | None = None,
) -> None:
    """Open a join that sends this signature, which has its ids, when its results have come.

    What follows a run has its joins opened by the settlement of that run: a run that is repeated leaves none behind.

    Raises: ResultStoreUnavailable, ResultNotStored
    """
    first, rest = behind.first_and_rest()
    options = dict(first.options)
    delay = options.pop("countdown", None)
    options["join"] = [join_id, mode, not first.immutable]
    if rest:
        options["chain"] = rest
    if parent_id is not None:
        options.setdefault("parent_id", parent_id)
    task = app.tasks.get(first.task)
    if task is None:
        call = app.producer.call(first.task, first.args, first.kwargs, options)
    else:
        call = task.call_for(first.args, first.kwargs, options)
    join = Join(message.key_of(join_id), app.producer.outgoing(call), size, delay)
    opened = context.OPENED.get()
    if opened is None or context.JOINS.get() is not None:
        _joins(app).open_join(join)
        return
    _joins(app).ensure_chords_allowed()
    opened.append(join)


def size_join(app: Sender, join_id: str, size: int) -> None:
    """Say how many results a join waits for, where that was not known; with all of them there, its message is sent.

    Raises: ResultStoreUnavailable, BrokerUnavailable
    """
    app.producer.send_stored(app.backend.size_join(message.key_of(join_id), size))


def take_a_seat_more(request: Request, app: Sender, signature: Signature) -> Signature:
    """The signature as one more member of the chord that the request is a member of.

    Raises:
        ValueError: it is a member of none, or of one that is complete or not wholly sent.
    """
    if not request.chord:
        raise ValueError("Current task is not member of any chord")
    join_id = message.read_id(request.chord[0])
    place = _joins(app).grow_join(message.key_of(join_id))
    if place is None:
        raise ValueError(
            "the chord of this task is complete, or is still being sent: it can take no more members"
        )
    member = signature.clone()
    take_seat(member, join_id, place)
    return member.set(group_id=request.group, group_index=place)


def _joins(app: Any) -> Any:
    """Where the application's joins are: in its result store, unless a workflow runs in its caller."""
    here = context.JOINS.get()
    return app.backend if here is None else here


# -- running ------------------------------------------------------------------------------------------------


def gather(request: Request, accept: Collection[str]) -> Outcome | None:
    """Put a join's results before the arguments. Not None: how the run ends without user code.

    Raises: ResultStoreUnavailable
    """
    key, mode, is_wanted = request.options.join or (b"", AS_LIST, False)
    task = request.task_object
    data = _joins(task.app).gathered(message.key_of(message.read_id(key)))
    if data is None:
        # It has run already: this message was sent twice.
        return REPEATED
    values: list[Any] = []
    for one in data:
        record = stored.decode(one, accept)
        if record.state != states.SUCCESS:
            return _failed(request, record, mode)
        values.append(record.result)
    if is_wanted:
        request.bring(values if mode == AS_LIST else values[0])
    return None


def _failed(request: Request, record: Stored, mode: str) -> Outcome:
    error = record.result
    if mode == AS_VALUE:
        # An earlier step of a chain has failed, and its error callbacks have been called.
        request.update(callbacks=None, errbacks=None)
        return Failure(error, record.traceback or "", True)
    text = f"Dependency {record.task_id} raised {error!r}"
    return failed_without_running(request.task_object, request, ChordError(text))


def arrivals(request: Request, outcome: Outcome, encode: Callable[[Stored], bytes]) -> list[Arrival]:
    """What a run that ended so brings to joins. What is cut off by its end arrives too: as a failure.

    Raises: EncodeError: its return value does not travel.
    """
    seats = _seats(request, outcome)
    if not seats:
        return []
    match outcome:
        case Success(result):
            record = Stored(states.SUCCESS, result)
        case Failure(error, text):
            record = Stored(states.FAILURE, error, None, text, task_id=request.id)
        case Revoked(reason):
            record = Stored(states.FAILURE, TaskRevokedError(reason), task_id=request.id)
        case Rejected(reason):
            record = Stored(states.FAILURE, Reject(reason), task_id=request.id)
        case _:
            record = Stored(states.FAILURE, Ignore("the task was ignored"), task_id=request.id)
    data = encode(record)
    return [Arrival(message.key_of(message.read_id(key)), place, data) for key, place in seats]


def _seats(request: Request, outcome: Outcome) -> Sequence[Any]:
    match outcome:
        case Retried() | Rejected(requeue=True):
            return ()
        case Ignored(is_repeated) if is_repeated or request.replacement:
            return ()
        case Success() if request.chain:
            return ()
        case _:
            pass
    chain = request.options.chain
    if chain:
        # The run ends a chain, whether it should or not.
        seat = (end_of(chain[0]).get("options") or _NOTHING).get("chord")
        return [seat] if seat else ()
    return [request.chord] if request.chord else ()


def used(request: Request) -> list[bytes]:
    """The join that a run which has ended for good has used up."""
    return [message.key_of(message.read_id(request.options.join[0]))] if request.options.join else []
