"""Several results: `ResultSet`, and `GroupResult`, which has an id of its own.

One look at the store, or one watch, serves all members.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, Unpack, cast

from celeriac import context, message, plugins, states, stored
from celeriac.async_result import AsyncResult, EagerResult, ResultBase
from celeriac.brokers.contract import Record
from celeriac.bulk import Members
from celeriac.context import Results
from celeriac.exceptions import ResultNotStored, TimeoutError
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored
from celeriac.waiting import (
    PAGE,
    UNKNOWN,
    Listener,
    Wait,
    WaitOptions,
    arrivals,
    call_back,
    cause_of,
    meta_of,
    read,
)

_NOT_YET: Final = object()


class ResultSet(ResultBase):
    """Several results, in order."""

    TimeoutError = TimeoutError

    #: The result before it, for a group that follows a task.
    parent: Any = None

    def __init__(self, results: Iterable[AsyncResult | GroupResult], app: Results | None = None) -> None:
        self.results: list[Any] | Members = results if isinstance(results, Members) else list(results)
        self._app = app
        self._told: list[Listener] = []

    @property
    def app(self) -> Results:
        """The application: the given one, else that of the first result, else the current one."""
        if self._app is None and self.results:
            first: Results = self.results[0].app
            return first
        app: Results = self._app if self._app is not None else context.current_app()
        return app

    @property
    def backend(self) -> ResultStore:
        """The result store."""
        return self.app.backend

    @property
    def supports_native_join(self) -> bool:
        """True: every result store can wait for many at once."""
        return True

    def leaves(self) -> Iterator[AsyncResult]:
        """The single results, those of nested groups included. Of a large set each is made when it is asked for."""
        for result in self._all():
            if isinstance(result, ResultSet):
                yield from result.leaves()
            else:
                yield result

    def _all(self) -> Iterator[Any]:
        """The results; of a large group each is made for the moment."""
        results = self.results
        return results.peeked() if isinstance(results, Members) and len(results) > PAGE else iter(results)

    def _places(self) -> tuple[int, Callable[[int], AsyncResult]]:
        """How many single results there are, and what gives that at a place."""
        results = self.results
        if isinstance(results, Members) and not any(isinstance(one, ResultSet) for one in results.kept()):
            return len(results), results.__getitem__ if len(results) <= PAGE else results.peek
        flat = isinstance(results, list) and not any(isinstance(one, ResultSet) for one in results)
        leaves: list[Any] = cast("list[Any]", results) if flat else list(self.leaves())
        return len(leaves), leaves.__getitem__

    def _finals(self) -> Iterator[Stored | None]:
        """Of each run its last record, if it has ended, in order. A page at a time is asked of the store.

        When the last one has been looked at and all have ended, those are called who asked for it with `then`.
        """
        leaves = self.leaves()
        all_ended, worst = True, UNKNOWN
        while page := list(islice(leaves, PAGE)):
            unknown = [leaf.key for leaf in page if leaf.final is None]
            records = self.app.backend.get(unknown) if unknown else {}
            for leaf in page:
                final = leaf.final
                if final is None and (data := records.get(leaf.key)) is not None:
                    record = read(self.app, data)
                    if record.state in states.READY_STATES:
                        final = record
                        if len(page) < PAGE or leaf.is_listened_to:
                            leaf.learn(final)
                all_ended = all_ended and final is not None
                if worst is UNKNOWN and final is not None and final.state in states.PROPAGATE_STATES:
                    worst = final
                yield final
        if all_ended:
            told, self._told = self._told, []
            for callback, on_error in told:
                call_back(callback, on_error, self, worst)

    def _tell(self) -> None:
        """Call those who asked with `then`, if all runs have ended."""
        if self._told:
            for _ in self._finals():
                pass

    def then(
        self,
        callback: Callable[[Any], Any],
        on_error: Callable[[Any], Any] | None = None,
        weak: bool = False,
    ) -> ResultSet:
        """As `AsyncResult.then`, once all runs have ended; `on_error` gets the exception of the first that failed."""
        self._told.append((callback, on_error))
        self._tell()
        return self

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> None:
        """Raise the exception of the first run that is known to have failed, without waiting."""
        for leaf, final in zip(self.leaves(), self._finals(), strict=True):
            if final is not None:
                leaf.learn(final)
                leaf.maybe_throw(propagate, callback)

    maybe_reraise = maybe_throw

    def _states(self) -> Iterator[str]:
        """Of each run the state in which it has ended, PENDING where it has not."""
        return (states.PENDING if final is None else final.state for final in self._finals())

    def ready(self) -> bool:
        """Whether all runs have ended."""
        return all(state in states.READY_STATES for state in self._states())

    def successful(self) -> bool:
        """Whether all runs returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Whether any run raised."""
        return any(state == states.FAILURE for state in self._states())

    def waiting(self) -> bool:
        """Whether any run has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many runs have returned."""
        return sum(state == states.SUCCESS for state in self._states())

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        **options: Unpack[WaitOptions],
    ) -> list[Any]:
        """The return values in order, once all are there; `propagate` raises the first exception that comes.

        With `callback` they go to it instead, in order, each as soon as it and those before it are there.

        Raises: as `AsyncResult.get`.
        """
        wait = Wait(interval, options)
        values: list[Any] = [_NOT_YET] * self._places()[0]
        whole: ResultSet = self
        while len(whole.results) == 1 and isinstance(only := whole.results[0], ResultSet):
            whole = only  # a group of one chain that ends in a group is that group
        telling = iter(()) if wait.callback is None else whole._telling(wait.callback, values)
        for place, leaf, record in self._arrivals(timeout, wait):
            if propagate:
                leaf.raise_failure(cause_of(self, record))
            values[place] = record.result
            next(telling, None)
        next(telling, None)
        return [] if wait.callback is not None else whole._nested(iter(values))

    join = get
    join_native = get

    def _nested(self, values: Iterator[Any]) -> list[Any]:
        """The values of all single results as those of this set, in which nested groups are lists."""
        if len(self.results) == 1 and isinstance(only := self.results[0], ResultSet):
            return only._nested(values)
        return [
            result._nested(values) if isinstance(result, ResultSet) else next(values)
            for result in self._all()
        ]

    def _telling(self, callback: Callable[[str, Any], Any], values: list[Any]) -> Iterator[None]:
        """Tell of each result in order, as soon as its values are there: as far as it goes, each time it is asked."""
        place = 0
        for result in self._all():
            is_set = isinstance(result, ResultSet)
            begin, end = place, place + (result._places()[0] if is_set else 1)
            while place < end:
                if values[place] is _NOT_YET:
                    yield
                else:
                    place += 1
            callback(result.id, result._nested(iter(values[begin:end])) if is_set else values[begin])

    def iter_native(
        self, timeout: float | None = None, interval: float = 0.5, **options: Unpack[WaitOptions]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ids and records as they come."""
        for _, leaf, record in self._arrivals(timeout, Wait(interval, options)):
            yield leaf.id, meta_of(leaf.id, record)

    def _arrivals(self, timeout: float | None, wait: Wait) -> Iterator[tuple[int, AsyncResult, Stored]]:
        """Every single result with its place and its final record, those that are known first.

        Of very many nothing is kept but their keys: who waits for a million has room for them and for the values.
        """
        refuse_ignored(self.leaves())
        count, leaf_at = self._places()
        missing = array("I")
        for place in range(count):
            leaf = leaf_at(place)
            if leaf.final is None:
                missing.append(place)
            else:
                yield place, leaf, leaf.final
        if missing:
            places = range(count) if len(missing) == count else missing
            del missing  # mostly all are, and a range takes no memory
            for turn, record in arrivals(self.app, self.app.backend, _Keys(places, leaf_at), timeout, wait):
                leaf = leaf_at(places[turn])
                if count <= PAGE or leaf.is_listened_to:
                    leaf.learn(record)
                yield places[turn], leaf, record
            self._tell()

    def __await__(self) -> Generator[Any, None, list[Any]]:
        """Wait without blocking the event loop: `values = await group_result`. Raises: as `get`."""
        gather: Callable[[Any], Any] = plugins.own("celeriac.aio_waiting:gather")
        values: Generator[Any, None, list[Any]] = gather(self).__await__()
        return values

    def __aiter__(self) -> AsyncIterator[AsyncResult]:
        """The single results as their runs end: `async for result in group_result`. No run's exception is raised.

        Raises: ResultNotStored, ResultStoreUnavailable.
        """
        ended: AsyncIterator[AsyncResult] = plugins.own("celeriac.aio_waiting:as_ended")(self)
        return ended

    def ended(self, timeout: float | None, wait: Wait) -> Iterator[AsyncResult]:
        """The single results as their runs end. Raises: TimeoutError, ResultNotStored, ResultStoreUnavailable."""
        for _, leaf, record in self._arrivals(timeout, wait):
            leaf.learn(record)
            yield leaf

    def add(self, result: AsyncResult | GroupResult) -> None:
        """Add one, unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: AsyncResult | GroupResult | str) -> None:
        """Take one out. Raises: KeyError."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: AsyncResult | GroupResult | str) -> None:
        """Take one out, if it is there."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[AsyncResult | GroupResult]) -> None:
        """Add several."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    def forget(self) -> None:
        """Delete all stored results."""
        keys = [leaf.key for leaf in self.leaves() if not isinstance(leaf, EagerResult)]
        if keys:
            self.app.backend.forget(keys)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Let none of the tasks begin a run any more; as `AsyncResult.revoke`, in one go."""
        ids = [leaf.id for leaf in self.leaves() if not isinstance(leaf, EagerResult)]
        if ids:
            self.app.control.revoke(ids, terminate=terminate, signal=signal, reply=wait, timeout=timeout)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: Any) -> Any:
        return self.results[place]

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._all()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self._all())}]>"


class _Keys(Sequence[bytes]):
    """The keys of the results at some places, each made when it is asked for."""

    def __init__(self, places: Sequence[int], leaf_at: Callable[[int], AsyncResult]) -> None:
        self._places = places
        self._leaf_at = leaf_at

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, turn: Any) -> Any:
        return self._leaf_at(self._places[int(turn)]).key


class GroupResult(ResultSet):
    """The results of a group, under the group's id."""

    def __init__(
        self,
        id: str,
        results: Iterable[AsyncResult | GroupResult] = (),
        parent: AsyncResult | GroupResult | None = None,
        app: Results | None = None,
    ) -> None:
        super().__init__(results, app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any] | Members:
        """The members' results."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """The ids as plain data; `result_from_tuple` is the reverse."""
        parent = None if self.parent is None else self.parent.as_tuple()
        return (self.id, parent), [result.as_tuple() for result in self._all()]

    def as_list(self) -> list[str]:
        """The group's id, then the parents'."""
        return [self.id, *([] if self.parent is None else self.parent.as_list())]

    def save(self, backend: ResultStore | None = None) -> None:
        """Keep the members' ids in the result store, for `restore`. Raises: ResultStoreUnavailable."""
        app = self.app
        ttl: float | None = app.conf.result_expires or None
        data = stored.encode(Stored("GROUP", self.as_tuple()))
        (backend or app.backend).put([Record(message.key_of(self.id), data, ttl)])

    @classmethod
    def restore(
        cls, id: str, backend: ResultStore | None = None, app: Results | None = None
    ) -> GroupResult | None:
        """The group that `save` kept; None: it is not there. Raises: ResultStoreUnavailable."""
        app = app if app is not None else cast("Results", context.current_app())
        key = message.key_of(id)
        data = (backend or app.backend).get([key]).get(key)
        found = None if data is None else result_from_tuple(stored.decode(data).result, app)
        return found if isinstance(found, GroupResult) else None

    def delete(self, backend: ResultStore | None = None) -> None:
        """Undo `save`. Raises: ResultStoreUnavailable."""
        (backend or self.app.backend).forget([message.key_of(self.id)])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return self.id == other.id and self.results == other.results
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(result.id for result in self._all())}]>"

    def __reduce__(self) -> Any:
        return type(self), (self.id, list(self._all()), self.parent)


def group_results_of(app: Results) -> Any:
    """What makes group results of that application, and restores them."""
    make: Any = partial(GroupResult, app=app)
    make.restore = partial(GroupResult.restore, app=app)
    return make


def refuse_ignored(leaves: Iterable[AsyncResult]) -> None:
    """Raises: ResultNotStored: some of the results will never be there; the text names their tasks."""
    ignored = sorted({leaf.task_name or leaf.id for leaf in leaves if leaf.ignored})
    if ignored:
        raise ResultNotStored(
            f"these tasks of the group do not keep their results, so there is nothing to wait for: "
            f"{', '.join(ignored)}. Declare them with @app.task(ignore_result=False), call them with "
            ".set(ignore_result=False), or set task_ignore_result=False."
        )


def result_from_tuple(form: Any, app: Results | None = None) -> AsyncResult | GroupResult:
    """The result that `as_tuple` took apart."""
    if isinstance(form, AsyncResult | GroupResult):
        return form  # pyright: ignore[reportUnknownVariableType]
    head: Any
    members: Any
    head, members = form
    if isinstance(head, str):
        head = (head, None)
    task_id, parent_form = head
    parent = None if parent_form is None else result_from_tuple(parent_form, app)
    if members is None:
        return AsyncResult(task_id, app=app, parent=parent)
    return GroupResult(task_id, [result_from_tuple(member, app) for member in members], parent, app)
