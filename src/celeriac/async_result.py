"""The result of one call: `AsyncResult`, and `EagerResult` where the call ran in place.

A result knows its id and its application; everything else is read from the result store when asked for. It holds
an application only as the `Results` protocol, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from celeriac import clock, context, message, plugins, states
from celeriac.context import Results
from celeriac.exceptions import ResultNotStored
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored
from celeriac.waiting import UNKNOWN, Wait, WaitOptions, arrivals, check_options, raise_failure, read

if TYPE_CHECKING:
    # A type variable with a default is Python 3.13's; type checkers know it from here under any version.
    from typing_extensions import TypeVar

    R = TypeVar("R", covariant=True, default=Any)
    T = TypeVar("T")
else:
    from typing import TypeVar

    R = TypeVar("R")
    T = TypeVar("T")


class AsyncResult(Generic[R]):
    """The result of one call, by its task id. For type checkers it knows what the task returns."""

    __slots__ = ("__weakref__", "_app", "_store", "final", "id", "ignored", "parent", "task_name")

    def __init__(
        self,
        id: str,
        backend: ResultStore | None = None,
        task_name: str | None = None,
        app: Results | None = None,
        parent: Any = None,
        ignored: bool | None = None,
    ) -> None:
        self.id = id
        self._store = backend
        self._app = app
        self.task_name = task_name
        self.parent = parent
        #: Whether the return value is dropped; None where only the id is known.
        self.ignored = ignored
        #: The last record, once it is final.
        self.final: Stored | None = None

    @property
    def task_id(self) -> str:
        """The id, by Celery's other name."""
        return self.id

    @property
    def app(self) -> Results:
        """The application: the given one, else the current one."""
        app: Results = self._app if self._app is not None else context.current_app()
        return app

    @property
    def backend(self) -> ResultStore:
        """The result store."""
        return self._store if self._store is not None else self.app.backend

    @property
    def key(self) -> bytes:
        """The id as the store knows it."""
        return message.key_of(self.id)

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

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
            ResultNotStored: the task does not keep its results.
            ResultStoreUnavailable: the result store is away.
            RuntimeError: called inside a task, with `disable_sync_subtasks`.
        """
        wait = Wait(interval, options)
        record = self.final
        if record is None:
            self.refuse_if_ignored()
            record = self._wait(timeout, wait.follow_parents and propagate, wait)
        if propagate:
            raise_failure(record)
        if wait.callback is not None:
            wait.callback(self.id, record.result)
        return record.result

    wait = get

    def _wait(self, timeout: float | None, follow_parents: bool, wait: Wait) -> Stored:
        own = self.key
        earlier = [node.key for node in self._parents()] if follow_parents else []
        for key, record in arrivals(self.app, self.backend, [own, *earlier], timeout, wait):
            if key == own:
                self.final = record
                return record
            raise_failure(record)
        raise AssertionError("a store's watch ended early")

    def _parents(self) -> Iterator[AsyncResult[Any]]:
        node: Any = self.parent
        while isinstance(node, AsyncResult):
            yield node
            node = node.parent

    def refuse_if_ignored(self) -> None:
        """Raises: ResultNotStored: the task does not keep its results."""
        if self.ignored:
            raise ResultNotStored(
                f"task {self.task_name or self.id!r} does not keep its results, so there is nothing to wait for. "
                "Declare it with @app.task(ignore_result=False), call it with apply_async(ignore_result=False), "
                "or set task_ignore_result=False."
            )

    @overload
    def __await__(self: AsyncResult[Coroutine[Any, Any, T]]) -> Generator[Any, None, T]: ...
    @overload
    def __await__(self) -> Generator[Any, None, R]: ...
    def __await__(self) -> Generator[Any, None, Any]:
        """Wait without blocking the event loop: `value = await result`."""
        wait_for: Callable[[Any], Any] = plugins.load("celeriac.aio:result_of")
        value: Generator[Any, None, Any] = wait_for(self).__await__()
        return value

    def record(self) -> Stored:
        """What the store knows now."""
        if self.final is None:
            data = self.backend.get([self.key]).get(self.key)
            if data is None:
                return UNKNOWN
            record = read(self.app, data)
            if record.state not in states.READY_STATES:
                return record
            self.final = record
        return self.final

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
            raise_failure(record)
        if callback is not None:
            callback(self.id, record.result)
        return record.result

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Delete the stored result, and those of its parents."""
        self.final = None
        self.backend.forget([self.key, *(node.key for node in self._parents())])

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Not there yet."""
        raise NotImplementedError("revoking a task comes with remote control, in a later version")

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

    @overload
    def get(
        self: EagerResult[Coroutine[Any, Any, T]], timeout: float | None = ..., propagate: bool = ...,
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
        """The return value; the task's exception is raised. Raises: TypeError: an option is unknown."""
        check_options(options)
        record = self.record()
        if propagate:
            if record.state in states.PROPAGATE_STATES and isinstance(record.result, BaseException):
                raise record.result
            if record.state == states.RETRY and isinstance(record.result, BaseException):
                raise record.result
        if (callback := options.get("callback")) is not None:
            callback(self.id, record.result)
        return record.result

    wait = get

    def record(self) -> Stored:
        return self.final or UNKNOWN

    def forget(self) -> None:
        """Nothing: the value is in this object only."""

    def __reduce__(self) -> Any:
        record = self.record()
        return type(self), (self.id, record.result, record.state, record.traceback, self.task_name)
