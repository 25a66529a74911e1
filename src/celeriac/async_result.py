"""The result of one call: `AsyncResult`, and `EagerResult` where the call ran in place.

A result knows its id and its application; everything else is read from the result store when asked for. It holds
an application only as the `Results` protocol, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Unpack, cast, overload

from celeriac import clock, context, message, plugins, states
from celeriac.context import Results
from celeriac.exceptions import TimeoutError
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored
from celeriac.waiting import (
    UNKNOWN,
    Origin,
    Own,
    Wait,
    WaitOptions,
    arrivals,
    call_back,
    cause_of,
    raise_failure,
    read,
)

if TYPE_CHECKING:
    # A type variable with a default is Python 3.13's; type checkers know it from here under any version.
    from typing_extensions import TypeVar

    R = TypeVar("R", covariant=True, default=Any)
    T = TypeVar("T")
else:
    from typing import TypeVar

    R = TypeVar("R")
    T = TypeVar("T")


class ResultBase:
    """What all results are."""

    __slots__ = ()


class AsyncResult(ResultBase, Generic[R]):
    """The result of one call, by its task id. For type checkers it knows what the task returns.

    Programs hold a million of them: one that waits is an id of 128 bits and a reference, 80 bytes in all.
    """

    __slots__ = ("_id", "_origin")

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str,
        backend: ResultStore | None = None,
        task_name: str | None = None,
        app: Results | None = None,
        parent: Any = None,
        ignored: bool | None = None,
    ) -> None:
        if id is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise ValueError("a result needs the id of a task, not None")
        self._id: complex | str = id
        self._origin = Origin(app, backend, task_name, ignored)
        if parent is not None:
            self.parent = parent

    @classmethod
    def sent(cls, key: bytes, origin: Origin, task_id: str = "") -> AsyncResult[R]:
        """The result of a call that has been sent with that key, and id if its key does not tell it."""
        result = cls.__new__(cls)
        result._id = task_id or complex(*message.HALVES.unpack(key))
        result._origin = origin
        return result

    def _own(self) -> Own:
        own = self._origin
        if not isinstance(own, Own):
            own = self._origin = Own(own)
        return own

    @property
    def id(self) -> str:
        """The task's id."""
        return self._id if isinstance(self._id, str) else message.id_of(self.key)

    task_id = id

    @property
    def key(self) -> bytes:
        """The id as the store knows it."""
        own = self._id
        return message.key_of(own) if isinstance(own, str) else message.HALVES.pack(own.real, own.imag)

    @property
    def app(self) -> Results:
        """The application: the given one, else the current one."""
        app = self._origin.app
        return app if app is not None else cast("Results", context.current_app())

    @property
    def backend(self) -> ResultStore:
        """The result store."""
        return self._origin.store if self._origin.store is not None else self.app.backend

    @property
    def task_name(self) -> str | None:
        """The task's name, where it is known without asking the store."""
        return self._origin.task_name

    @property
    def ignored(self) -> bool | None:
        """Whether the return value is dropped; None where only the id is known."""
        return self._origin.ignored

    @property
    def parent(self) -> Any:
        """The result before it, in a chain."""
        return self._origin.parent

    @parent.setter
    def parent(self, parent: Any) -> None:
        self._own().parent = parent

    @property
    def final(self) -> Stored | None:
        """The last record, once it is known and final."""
        return self._origin.final

    @final.setter
    def final(self, final: Stored | None) -> None:
        self._own().final = final

    @property
    def is_listened_to(self) -> bool:
        """Whether somebody has asked to be told of the end, with `then`."""
        return bool(self._origin.told)

    @overload
    def get(
        self: AsyncResult[Coroutine[Any, Any, T]], timeout: float | None = ..., propagate: bool = ...,
        interval: float = ..., **options: Unpack[WaitOptions],
    ) -> T: ...  # fmt: skip
    @overload
    def get(
        self, timeout: float | None = ..., propagate: bool = ..., interval: float = ...,
        **options: Unpack[WaitOptions],
    ) -> R: ...  # fmt: skip
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        **options: Unpack[WaitOptions],
    ) -> Any:
        """The return value, as soon as it is there; the task's exception is raised, its traceback as the cause.

        None at once where the task or the call says `ignore_result=True`.

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
            ResultNotStored: the task does not keep its results, by `task_ignore_result`.
            ResultStoreUnavailable: the result store is away.
            RuntimeError: called inside a task, with `disable_sync_subtasks`.
        """
        wait = Wait(interval, options, self._may_block)
        record = self.final
        if record is None:
            if self.is_dropped():
                return None
            record = self._wait(timeout, wait.follow_parents and propagate, wait)
        if propagate:
            self.raise_failure(cause_of(self, record))
        if wait.callback is not None:
            wait.callback(self.id, record.result)
        return record.result

    wait = get
    _may_block: ClassVar[bool] = True
    raise_failure = staticmethod(raise_failure)

    def _wait(self, timeout: float | None, follow_parents: bool, wait: Wait) -> Stored:
        own = self.key
        earlier = [node.key for node in self._parents()] if follow_parents else []
        for place, record in arrivals(self.app, self.backend, [own, *earlier], timeout, wait):
            if place == 0:
                return self.learn(record)
            raise_failure(cause_of(self, record))
        raise AssertionError("a store's watch ended early")

    def _parents(self) -> Iterator[AsyncResult[Any]]:
        node: Any = self.parent
        while isinstance(node, AsyncResult):
            yield node
            node = node.parent

    def is_dropped(self) -> bool:
        """Whether None is got, at once, because the caller's code says so. Raises: ResultNotStored: settings say so."""
        return self._origin.is_dropped(self)

    @overload
    def __await__(self: AsyncResult[Coroutine[Any, Any, T]]) -> Generator[Any, None, T]: ...
    @overload
    def __await__(self) -> Generator[Any, None, R]: ...
    def __await__(self) -> Generator[Any, None, Any]:
        """Wait without blocking the event loop: `value = await result`."""
        wait_for: Callable[[Any], Any] = plugins.own("celeriac.aio_waiting:result_of")
        value: Generator[Any, None, Any] = wait_for(self).__await__()
        return value

    @overload
    async def aget(
        self: AsyncResult[Coroutine[Any, Any, T]], timeout: float | None = ..., propagate: bool = ...
    ) -> T: ...
    @overload
    async def aget(self, timeout: float | None = ..., propagate: bool = ...) -> R: ...
    async def aget(self, timeout: float | None = None, propagate: bool = True) -> Any:
        """`get` for coroutines: the event loop goes on. Those that wait at the same time ask the store together.

        Raises: TimeoutError, ResultNotStored, ResultStoreUnavailable: see `get`.
        """
        wait_for: Callable[..., Any] = plugins.own("celeriac.aio_waiting:result_of")
        return await wait_for(self, timeout, propagate)

    def record(self) -> Stored:
        """What the store knows now."""
        if self.final is None:
            data = self.backend.get([self.key]).get(self.key)
            if data is None:
                return UNKNOWN
            record = read(self.app, data)
            return self.learn(record) if record.state in states.READY_STATES else record
        return self.final

    def learn(self, final: Stored) -> Stored:
        """Take a final record as known, and tell those who asked with `then`."""
        if self.final is None:
            own = self._own()
            own.final = final
            told, own.told = own.told, None
            for callback, on_error in told or ():
                call_back(callback, on_error, self, final)
        return final

    def then(
        self,
        callback: Callable[[Any], Any],
        on_error: Callable[[Any], Any] | None = None,
        weak: bool = False,
    ) -> AsyncResult[R]:
        """Have `callback(result)` called when this object learns that the run has ended; at once where it knows.

        It learns by `get`, by `ready` and the like: nothing watches in between. With `on_error`, a failed run calls
        `on_error(exception)` instead. `weak` changes nothing. Returns the result itself.
        """
        if self.final is not None:
            call_back(callback, on_error, self, self.final)
        else:
            own = self._own()
            own.told = [*(own.told or ()), (callback, on_error)]
        return self

    def throw(self, error: BaseException, *args: Any) -> None:
        """Raise an error as if it had come from the run: those who asked with `then(on_error=...)` are told first."""
        own = self._own()
        told, own.told = own.told, None
        for _, on_error in told or ():
            if on_error is not None:
                on_error(error)
        raise error

    @property
    def state(self) -> str:
        """The state that was stored last; PENDING where nothing is known."""
        return self.record().state

    status = state

    @property
    def result(self) -> Any:
        """The return value, the exception, or the `meta` of a state of the task's own; None so far."""
        return self.record().result

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed run, as text."""
        return self.record().traceback

    @property
    def date_done(self) -> datetime | None:
        """When the run ended."""
        stamp = self.record().date_done
        return None if stamp is None else clock.moment(stamp)

    @property
    def children(self) -> list[Any] | None:
        """Results of the tasks that the task has sent, where it keeps its own result."""
        children = self.record().children
        return None if children is None else [self.app.result_from_tuple(child) for child in children]

    @property
    def name(self) -> str | None:
        """The task's name, where it is known or stored (`result_extended`)."""
        return self.record().name or self.task_name

    @property
    def args(self) -> Any:
        """The arguments by place (`result_extended`)."""
        return self.record().args

    @property
    def kwargs(self) -> Any:
        """The arguments by name (`result_extended`)."""
        return self.record().kwargs

    @property
    def worker(self) -> str | None:
        """The worker that ran it (`result_extended`)."""
        return self.record().worker

    @property
    def retries(self) -> int | None:
        """How often it was retried (`result_extended`)."""
        return self.record().retries

    @property
    def queue(self) -> str | None:
        """The queue it came from (`result_extended`)."""
        return self.record().queue

    def ready(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the run returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the run raised."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether the store knows anything of it."""
        return self.record() is not UNKNOWN

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """The result of now, without waiting; an exception is raised."""
        record = self.record()
        if propagate:
            self.raise_failure(record)
        if callback is not None:
            callback(self.id, record.result)
        return record.result

    maybe_reraise = maybe_throw

    @property
    def supports_native_join(self) -> bool:
        """True: every result store can wait for many at once."""
        return True

    # -- what the task has sent -----------------------------------------------------------------------------

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """This result and those of the tasks that were sent by its run, by theirs and so on: `(parent, result)`.

        Raises: IncompleteStream: one has not ended; with `intermediate` it is passed over.
        """
        found: Iterator[tuple[Any, Any]] = plugins.own("celeriac.result_graph:descend")(self, intermediate)
        return found

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """The same with their values, each waited for: `(result, value)`. Options as of `get`; raises as it does."""
        return ((result, result.get(**options)) for _, result in self.iterdeps(intermediate))

    def get_leaf(self) -> Any:
        """The value of the last of these. Raises: as `get`."""
        value = None
        for _, found in self.collect():
            value = found
        return value

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> Any:
        """Who sent whom, as a `DependencyGraph`; `to_dot` writes it for Graphviz. Raises: as `iterdeps`."""
        return plugins.own("celeriac.result_graph:graph_of")(self, intermediate, formatter)

    @property
    def graph(self) -> Any:
        """`build_graph()`."""
        return self.build_graph()

    def forget(self) -> None:
        """Delete the stored result, and those of its parents."""
        self.final = None
        self.backend.forget([self.key, *(node.key for node in self._parents())])

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Let the task begin no run any more. What waits ends as REVOKED at once; what runs goes on.

        With `terminate` a run is told, by `celeriac.exceptions.Terminated`, and ended by force after
        `worker_revoke_grace` seconds; with the signal SIGKILL at once. `wait`: until the workers have heard it, at most
        `timeout` seconds.

        Raises: BrokerUnavailable, BrokerRefused, ResultStoreUnavailable: the same call again is safe.
        """
        self.app.control.revoke(self.id, terminate=terminate, signal=signal, reply=wait, timeout=timeout)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Revoke the tasks that bear one of these stamps, this one or others: as `app.control` does."""
        self.app.control.revoke_by_stamped_headers(
            headers, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    def as_tuple(self) -> tuple[Any, Any]:
        """The id and the parents' ids, as plain data; `result_from_tuple` is the reverse."""
        return (self.id, None if self.parent is None else self.parent.as_tuple()), None

    def as_list(self) -> list[str]:
        """The ids, the parents' last."""
        return [self.id, *([] if self.parent is None else self.parent.as_list())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(self.id == other.id)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __reduce__(self) -> Any:
        return type(self), (self.id, None, self.task_name, None, self.parent, self.ignored)


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in its caller."""

    __slots__ = ()

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(id, None, name, ignored=False)
        self.final = Stored(state, ret_value, None, traceback)

    _may_block = False

    @staticmethod
    def raise_failure(record: Stored) -> None:
        """The exception is the run's own here, with its own traceback. One that would have been retried raises too."""
        if record.state in states.EXCEPTION_STATES and isinstance(record.result, BaseException):
            raise record.result

    def record(self) -> Stored:
        return self.final or UNKNOWN

    def revoke(self, *args: Any, **options: Any) -> None:
        """Nothing: it has run."""

    def forget(self) -> None:
        """Nothing: the value is in this object only."""

    def __reduce__(self) -> Any:
        record = self.record()
        return type(self), (self.id, record.result, record.state, record.traceback, self.task_name)
