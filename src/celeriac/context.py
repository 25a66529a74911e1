"""What runs now: the current request and the current application, as ContextVars.

`Request` is what a running task knows of its own call (Celery's `Task.request`). It is built for every
run, so it holds the message and works out the rest when somebody asks.

The protocols `Results` and `Sender` say what results and signatures need of an application; they never
import one. That keeps `app`, `task`, `result` and `workflow` free of import cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, overload, runtime_checkable
from weakref import WeakSet

import msgspec

from celeriac import clock
from celeriac.brokers.contract import Consumer, Delivery, Record
from celeriac.exceptions import ImproperlyConfigured
from celeriac.message import NO_OPTIONS, Message, Options, read_id
from celeriac.results.contract import ResultStore
from celeriac.setting_kinds import TRANSIENT


class _Lazy:
    """An attribute worked out when first read; assigning replaces it, as with any attribute."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, request: None, owner: type) -> _Lazy: ...
    @overload
    def __get__(self, request: object, owner: type) -> Any: ...
    def __get__(self, request: object | None, owner: type) -> Any:
        if request is None:
            return self
        value = request.__dict__[self.name] = self.compute(request)
        return value


_FOLLOWERS: Final = frozenset({"callbacks", "errbacks", "chain", "chord"})


class Request:
    """One call of a task as the task sees it: Celery's `Task.request`.

    Task code may set any attribute: `self.request.chain = None` ends a chain after this step.
    """

    __slots__ = (
        "__dict__", "brought", "called_directly", "delivery", "holder", "hostname", "is_eager", "is_entered", "message",
        "opened", "outer", "pending_retry", "progress", "replacement", "task_object",
    )  # fmt: skip

    def __init__(
        self,
        message: Message | None = None,
        delivery: Delivery | None = None,
        hostname: str | None = None,
        *,
        is_eager: bool = False,
        called_directly: bool = False,
    ) -> None:
        self.message = message
        self.delivery = delivery
        self.hostname = hostname
        self.is_eager = is_eager
        self.called_directly = called_directly
        #: The consumer that holds the delivery, where there is one.
        self.holder: Consumer | None = None
        #: Set by `enter`: the Task that runs, and the request around this one.
        self.task_object: Any = None
        self.outer: Request | None = None
        #: Whether the task's own `__call__` has passed the call on to `run`.
        self.is_entered = False
        #: The Retry that `Task.retry` has decided on. It ends the run, whether the task raised it or not.
        self.pending_retry: Any = None
        #: Whether the first argument came from a join, and not in the message.
        self.brought = False
        #: What the run has told of its progress, if it has.
        self.progress: Any = None
        #: The calls that take this run's place: `Task.replace` has decided on them.
        self.replacement: list[Any] | None = None
        #: The joins of what follows this run or takes its place: they are opened when it ends.
        self.opened: list[Any] = []

    @property
    def options(self) -> Options:
        """The message's options as they came, whatever the task has set since."""
        return NO_OPTIONS if self.message is None else self.message.options

    @property
    def key(self) -> bytes:
        """The key of the message that is held."""
        assert self.delivery is not None
        return self.delivery.key

    def note(self, record: Record, results: ResultStore) -> bool:
        """Store a record on the way; False: the worker's lease has ended, and others may have stored an end.

        In one step where the broker keeps the results; else the lease is asked for just before.

        Raises: BrokerUnavailable, BrokerRefused, ResultStoreUnavailable
        """
        holder, delivery = self.holder, self.delivery
        if holder is not None and delivery is not None:
            if holder.place == results.place:
                return holder.note(delivery, [record])
            if holder.confirm([delivery]):
                return False
        results.put([record])
        return True

    @property
    def is_chained(self) -> bool:
        """Whether anything follows this run: links, errbacks, a chain, a chord."""
        options = self.options
        came = (options.links, options.errbacks, options.chain, options.chord, options.join)
        return any(came) or not _FOLLOWERS.isdisjoint(self.__dict__)

    id = _Lazy(lambda self: None if self.message is None else self.message.id)
    task = _Lazy(lambda self: self.message.task if self.message else getattr(self.task_object, "name", None))
    #: Celery's other words for the two, in the request that signals of a worker bring.
    name = _Lazy(lambda self: self._header("name", self.task))
    task_name = _Lazy(lambda self: self._header("task_name", self.task))
    task_id = _Lazy(lambda self: self._header("task_id", self.id))
    args = _Lazy(lambda self: None if self.message is None else self.message.args)
    kwargs = _Lazy(lambda self: None if self.message is None else self.message.kwargs)
    retries = _Lazy(lambda self: self.options.retries)
    group = _Lazy(lambda self: None if self.options.group is None else read_id(self.options.group))
    taskset = _Lazy(lambda self: self.group)
    group_index = _Lazy(lambda self: self.options.group_index)
    headers = _Lazy(lambda self: self.options.headers)
    stamps = _Lazy(lambda self: self.options.stamps or dict[str, Any]())
    stamped_headers = _Lazy(lambda self: list(self.stamps) if self.stamps else None)
    callbacks = _Lazy(lambda self: self.options.links)
    errbacks = _Lazy(lambda self: self.options.errbacks)
    #: What is still to run, the next step last, as with Celery.
    chain = _Lazy(lambda self: self.options.chain)
    chord = _Lazy(lambda self: self.options.chord)
    shadow = _Lazy(lambda self: self.options.shadow)
    reply_to = _Lazy(lambda self: self.options.reply_to)
    #: As the caller said, else as the task says.
    time_limit = _Lazy(lambda self: self._limit("time_limit"))
    soft_time_limit = _Lazy(lambda self: self._limit("soft_time_limit"))
    timelimit = _Lazy(lambda self: [self.time_limit, self.soft_time_limit])
    replaced_task_nesting = _Lazy(lambda self: self.options.replaced)
    origin = _Lazy(lambda self: None)
    logfile = _Lazy(lambda self: None)
    loglevel = _Lazy(lambda self: None)
    utc = _Lazy(lambda self: True)
    eta = _Lazy(lambda self: _iso(self.options.eta))
    expires = _Lazy(lambda self: _iso(self.options.expires))

    @_Lazy
    def correlation_id(self) -> str | None:
        """The task id, unless the caller gave it another."""
        properties = self.options.properties or {}
        named: str | None = properties.get("correlation_id", self.id)
        return named

    @_Lazy
    def root_id(self) -> str | None:
        """The id of the task at the beginning: this one's own where nobody sent it from a task."""
        root = self.options.root
        return self.id if root is None else read_id(root)

    @_Lazy
    def parent_id(self) -> str | None:
        """The id of the task that sent this one."""
        parent = self.options.parent
        return None if parent is None else read_id(parent)

    @_Lazy
    def ignore_result(self) -> bool:
        """Whether the return value is dropped: as the caller said, else as the task says."""
        asked = self.options.ignore_result
        return bool(getattr(self.task_object, "ignore_result", False)) if asked is None else asked

    def _header(self, name: str, default: Any) -> Any:
        headers: dict[str, Any] = self.headers or {}
        return headers.get(name, default)

    def _limit(self, name: str) -> float | None:
        asked: float | None = getattr(self.options, name)
        return getattr(self.task_object, name, None) if asked is None else asked

    @_Lazy
    def delivery_info(self) -> dict[str, Any]:
        """Where the message came from."""
        queue = self.delivery.queue if self.delivery is not None else None
        info = {
            "exchange": "",
            "routing_key": queue,
            "priority": self.options.priority,
            "redelivered": self.options.redelivered
            or (self.delivery is not None and self.delivery.crashes > 0),
        }
        return info | {"is_eager": True} if self.is_eager else info

    @_Lazy
    def properties(self) -> dict[str, Any]:
        """What Celery keeps in the message's properties."""
        return {
            **(self.options.properties or {}),
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "delivery_info": {"exchange": "", "routing_key": self.delivery_info["routing_key"]},
            "priority": self.options.priority,
        }

    @_Lazy
    def children(self) -> list[Any]:
        """Results of the tasks that this one has sent, filled as it sends them."""
        return []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and (headers := self.headers) and name in headers:
            return headers[name]
        raise AttributeError(f"the request has no attribute {name!r}")

    def bring(self, value: Any) -> None:
        """Put what earlier tasks have returned before the arguments."""
        if self.message is not None:
            self.message = msgspec.structs.replace(self.message, args=[value, *self.message.args])
            self.brought = True

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or the default where there is none of that name."""
        return getattr(self, key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, as `dict.update` sets keys."""
        for key, value in dict(*args, **kwargs).items():
            setattr(self, key, value)

    def clear(self) -> None:
        """Forget what was set by hand."""
        self.__dict__.clear()

    def as_execution_options(self) -> dict[str, Any]:
        """The options with which `apply_async` would send the same call again."""
        options = {
            "task_id": self.id, "root_id": self.root_id, "parent_id": self.parent_id, "group_id": self.group,
            "group_index": self.group_index, "shadow": self.shadow, "chord": self.chord, "chain": self.chain,
            "link": self.callbacks, "link_error": self.errbacks, "expires": self.expires,
            "soft_time_limit": self.soft_time_limit, "time_limit": self.time_limit, "headers": self.headers,
            "retries": self.retries, "reply_to": self.reply_to, "stamps": self.stamps or None,
            "replaced_task_nesting": self.replaced_task_nesting,
            "ignore_result": self.options.ignore_result, "priority": self.options.priority,
            "delivery_mode": TRANSIENT if self.options.transient else None, **(self.options.properties or {}),
        }  # fmt: skip
        return {name: value for name, value in options.items() if value is not None}

    def __repr__(self) -> str:
        return f"<Request of {self.task!r}, id {self.id!r}>"


def _iso(stamp: float | None) -> str | None:
    return None if stamp is None else clock.moment(stamp).isoformat()


#: The innermost run of this thread, greenlet or coroutine. Written by `enter` and `leave` only.
REQUEST: Final[ContextVar[Request | None]] = ContextVar("celeriac_request", default=None)
#: The application made current here, if any; `APPS` has the process's default.
APP: Final[ContextVar[Any]] = ContextVar("celeriac_app", default=None)
#: Where set, messages that would be sent are put into this list: they become part of a settlement.
COLLECTED: Final[ContextVar[list[Any] | None]] = ContextVar("celeriac_collected", default=None)
#: Where set, joins that would be opened are put into this list, for the same settlement.
OPENED: Final[ContextVar[list[Any] | None]] = ContextVar("celeriac_opened", default=None)
#: Where set, joins are opened here, and not in the application's result store: a workflow runs in its caller.
JOINS: Final[ContextVar[Any]] = ContextVar("celeriac_joins", default=None)
#: Whether `AsyncResult.get` may be called inside a task.
JOINS_ALLOWED: Final[ContextVar[bool]] = ContextVar("celeriac_joins_allowed", default=False)


def enter(task: Any, request: Request) -> None:
    """Make `request` the current one: `task` runs now. Always paired with `leave`."""
    request.task_object = task
    request.outer = REQUEST.get()
    REQUEST.set(request)


def leave(request: Request) -> None:
    """The run of `request` has ended: the one around it is current again."""
    REQUEST.set(request.outer)
    if request.progress is not None:
        request.progress.close()


@contextmanager
def running(task: Any, request: Request) -> Generator[Request]:
    """`enter` and `leave` around a block."""
    enter(task, request)
    try:
        yield request
    finally:
        leave(request)


def request_of(task: Any) -> Request | None:
    """The innermost request of this task, or None where it does not run here."""
    request = REQUEST.get()
    while request is not None and request.task_object is not task:
        request = request.outer
    return request


def worker_request() -> Request | None:
    """The innermost request that came as a message (not one of a task called as a function)."""
    request = REQUEST.get()
    while request is not None and request.called_directly:
        request = request.outer
    return request


@contextmanager
def set_in(variable: ContextVar[Any], value: Any) -> Generator[None]:
    """Inside the block the variable has that value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def collecting() -> Generator[list[Any]]:
    """Inside the block nothing is sent: the calls are put into the list."""
    calls: list[Any] = []
    with set_in(COLLECTED, calls):
        yield calls


@contextmanager
def following(request: Request) -> Generator[list[Any]]:
    """`collecting` for what is to be sent when this run ends: joins are not opened either, but noted in the request."""
    request.opened = []
    with set_in(OPENED, request.opened), collecting() as calls:
        yield calls


def add_to_trail(result: Any) -> None:
    """Note in the run that sends a task that it has: its record lists its children."""
    parent = worker_request()
    if (
        parent is not None
        and parent.task_object is not None
        and parent.task_object.trail
        and not parent.ignore_result
    ):
        parent.children.append(result)


class Apps:
    """The process's applications: the default one, and what every one of them shares."""

    def __init__(self) -> None:
        self.all: WeakSet[Any] = WeakSet()
        self.default: Any = None
        self._is_chosen = False
        self._shared: list[Callable[[Any], None]] = []

    def add(self, app: Any) -> None:
        """A new application: it gets all tasks that are shared."""
        self.all.add(app)
        for declare in list(self._shared):
            declare(app)

    def share(self, declare: Callable[[Any], None]) -> None:
        """Call `declare` with every application, those there are and those to come."""
        for app in list(self.all):
            declare(app)
        self._shared.append(declare)

    def set_current(self, app: Any) -> None:
        """Make it current here, and the default of all threads unless one was chosen with `set_default`."""
        APP.set(app)
        if not self._is_chosen:
            self.default = app

    def set_default(self, app: Any) -> None:
        """Make it the default of all threads."""
        self.default = app
        self._is_chosen = app is not None

    @contextmanager
    def kept(self) -> Generator[None]:
        """Behind the block the applications are those that they were before it."""
        default, is_chosen, known, shared = self.default, self._is_chosen, set(self.all), list(self._shared)
        token = APP.set(APP.get())
        try:
            yield
        finally:
            APP.reset(token)
            self.default, self._is_chosen, self._shared = default, is_chosen, shared
            self.all = WeakSet(known)

    def discard(self, app: Any) -> None:
        """The application is closed for good: it is nobody's current one any more."""
        self.all.discard(app)
        if APP.get() is app:
            APP.set(None)
        if self.default is app:
            self.default, self._is_chosen = None, False


#: The process's one registry of applications.
APPS: Final = Apps()


@contextmanager
def as_current(app: Any) -> Generator[None]:
    """Inside the block `app` is the current application."""
    with set_in(APP, app):
        yield


def current_app() -> Any:
    """The application that is current here.

    Raises:
        ImproperlyConfigured: there is none.
    """
    app = APP.get() or APPS.default
    if app is None:
        raise ImproperlyConfigured(
            "there is no application yet: make one with  app = Celeriac('proj', broker=...)  and import its "
            "module before a shared task is used (with Django, in the project's __init__.py)"
        )
    return app


def current_task() -> Any:
    """The Task that runs here, or None."""
    request = REQUEST.get()
    return None if request is None else request.task_object


@runtime_checkable
class Results(Protocol):
    """What a result needs of its application."""

    @property
    def backend(self) -> ResultStore: ...

    @property
    def conf(self) -> Any: ...

    @property
    def control(self) -> Any: ...

    def result_from_tuple(self, form: Any) -> Any: ...


@runtime_checkable
class Sender(Results, Protocol):
    """What a signature needs of its application."""

    @property
    def tasks(self) -> Mapping[str, Any]: ...

    @property
    def producer(self) -> Any: ...

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any: ...

    def send_many(self, calls: Iterable[Any]) -> None: ...
