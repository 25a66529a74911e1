"""Task: a declared function, and the ways to ask for a run of it. The road begins here, in `apply_async`.

A task is an instance of `Task` or of a class of the user's. What it does not set itself follows the settings
(`FromSettings`). `retry` and `retry_of` decide on a further run and say so with a `Retry` that carries the next
message; the executor sends that, together with settling the old one.

It never waits for anything but the broker's answer to a send.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Final, Generic, cast, overload

from celeriac import arguments, context, plugins, retrying, send_options
from celeriac.async_result import AsyncResult, EagerResult
from celeriac.bulk import Pattern
from celeriac.context import REQUEST, Request
from celeriac.exceptions import Ignore, MaxRetriesExceededError, OperationalError, Retry
from celeriac.message import Message, new_key
from celeriac.producer import Call, Producer
from celeriac.routing import DESTINATION
from celeriac.task_hooks import HOOKS, FromSettings, Hooks, Reporting, follows_settings
from celeriac.task_signing import A, B, C, D, P, Q, R, Signing
from celeriac.waiting import Origin
from celeriac.workflow.signature import Signature


class _Road:
    """What every plain call of one task has in common, worked out once for each state of the settings."""

    __slots__ = ("conf", "is_eager", "is_plain", "options", "origin", "own", "producer", "queue", "version")

    def __init__(self, task: Task[..., Any]) -> None:
        app = task.app
        self.conf = app.conf
        self.version: int = self.conf.version
        self.producer: Producer = app.producer
        self.is_eager: bool = self.conf.task_always_eager
        ignored, by_default = bool(task.ignore_result), follows_settings(task, "ignore_result")
        self.origin = Origin(app, None, task.name, ignored, ignored and not by_default)
        send_options.check_limits(task.soft_time_limit, task.time_limit, task.name)
        self.own = own = task.send_defaults()
        route = self.producer.router.options_for(task.name) if self.producer.router.is_constant else None
        self.is_plain = (
            route is not None and route.keys() <= DESTINATION and not self.is_eager and "expires" not in own
            and not any(_overrides(task, name) for name in ("shadow_name", "call_for"))
        )  # fmt: skip
        queues = self.producer.router.queues_for(task.name, own, route or {}) if self.is_plain else ("",)
        self.is_plain = self.is_plain and len(queues) == 1
        self.queue = queues[0]
        self.options = self.producer.defaults_of(own, queues)

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What was given for one call over what the task says; a destination of its own is the whole of it."""
        if given.keys() & DESTINATION:
            return {**{name: self.own[name] for name in self.own.keys() - DESTINATION}, **given}
        return {**self.own, **given}


_SENT: Final = (
    "queue", "exchange", "routing_key", "delivery_mode", "priority", "serializer", "compression", "expires",
)  # fmt: skip


class Task(Hooks, Reporting, Signing[P, R], Generic[P, R]):
    """A function that can be run elsewhere. Subclass it for hooks and common options; `run` is the function."""

    name: str = cast("str", None)
    max_retries: int | None = 3
    default_retry_delay: float = 180
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    throws: tuple[type[BaseException], ...] = ()
    typing: bool = True
    trail: bool = True
    abstract: ClassVar[bool] = True
    queue: str | None = None
    exchange: str | None = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: Any = None
    expires: Any = None
    serializer: Any = FromSettings("task_serializer")
    compression: Any = FromSettings("task_compression")
    priority: Any = FromSettings("task_default_priority")
    rate_limit: Any = FromSettings("task_default_rate_limit")
    time_limit: Any = FromSettings("task_time_limit")
    soft_time_limit: Any = FromSettings("task_soft_time_limit")
    track_started: Any = FromSettings("task_track_started")
    acks_late: Any = FromSettings("task_acks_late")
    acks_on_failure_or_timeout: Any = FromSettings("task_acks_on_failure_or_timeout")
    acks_on_failure: Any = FromSettings("task_acks_on_failure")
    acks_on_timeout: Any = FromSettings("task_acks_on_timeout")
    reject_on_worker_lost: Any = FromSettings("task_reject_on_worker_lost")
    ignore_result: Any = FromSettings("task_ignore_result")
    store_errors_even_if_ignored: Any = FromSettings("task_store_errors_even_if_ignored")
    store_eager_result: Any = FromSettings("task_store_eager_result")

    MaxRetriesExceededError: ClassVar[type[MaxRetriesExceededError]] = MaxRetriesExceededError
    OperationalError: ClassVar[type[OperationalError]] = OperationalError

    #: Set by `bind`: whether `run` is a coroutine function; which hooks do something; what a worker calls (`run`,
    #: or the task itself where its class has a `__call__` of its own).
    is_async: bool = False
    hooks: frozenset[str] = frozenset()
    target: Callable[..., Any]
    name_bytes: bytes = b""
    _app: Any = None
    _road: _Road | None = None
    _stub: Callable[..., None] | None = None
    __wrapped__: Callable[P, R]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in FROM_SETTINGS & cls.__dict__.keys():
            if cls.__dict__[name] is None:
                delattr(cls, name)  # None has always meant "as the settings say"

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name in _SENT or name == "ignore_result":
            object.__setattr__(self, "_road", None)

    # -- declaring ------------------------------------------------------------------------------------------

    def bind(self, app: Any) -> None:
        """Make it a task of that application. Called once, when it is registered."""
        self._app = app
        self.is_async = inspect.iscoroutinefunction(self.run)
        self.hooks = frozenset(hook for hook in HOOKS if _overrides(self, hook))
        self.target = self if _overrides(self, "__call__") else self.run
        self.name_bytes = self.name.encode()
        self._stub = arguments.checker(self.run)
        self.on_bound(app)

    def on_bound(self, app: Any) -> None:
        """Called when the task has become one of an application's."""

    def fix(self) -> None:
        """Take what follows the settings as it is now: a worker asks for it at every run."""
        fixed = self.__dict__.setdefault("_fixed", set[str]())
        for name in FROM_SETTINGS:
            if name not in self.__dict__ and follows_settings(self, name):
                self.__dict__[name] = getattr(self, name)
                fixed.add(name)

    @property
    def app(self) -> Any:
        """The application it belongs to; the current one where it was not registered."""
        return self._app if self._app is not None else context.current_app()

    @property
    def backend(self) -> Any:
        """The application's result store."""
        return self.app.backend

    @property
    def source(self) -> str:
        """Where the function is written, to tell two tasks of one name apart."""
        function = inspect.unwrap(getattr(self.run, "__func__", self.run))
        code = getattr(function, "__code__", None)
        name = getattr(function, "__qualname__", type(self).__qualname__)
        return f"{name} in {code.co_filename}" if code is not None else f"{name} in {type(self).__module__}"

    def send_defaults(self) -> dict[str, Any]:
        """The send options that the task or its class sets itself, other than by following the settings."""
        fixed: set[str] = self.__dict__.get("_fixed", set())
        return {
            name: value
            for name in _SENT
            if name not in fixed
            and not isinstance(inspect.getattr_static(self, name), FromSettings)
            and (value := getattr(self, name)) is not None
        }

    # -- asking for a run -----------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call of the task. Raises: as `apply_async`."""
        return self.apply_async(args, kwargs)

    # A tuple of up to four arguments is checked where there are none by name: docs/design/0008.
    @overload
    def apply_async(
        self: Callable[[], Q], args: tuple[()] | None = None, kwargs: None = None, *, task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Q]: ...  # fmt: skip
    @overload
    def apply_async(
        self: Callable[[A], Q], args: tuple[A], kwargs: None = None, *, task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Q]: ...  # fmt: skip
    @overload
    def apply_async(
        self: Callable[[A, B], Q], args: tuple[A, B], kwargs: None = None, *, task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Q]: ...  # fmt: skip
    @overload
    def apply_async(
        self: Callable[[A, B, C], Q], args: tuple[A, B, C], kwargs: None = None, *, task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Q]: ...  # fmt: skip
    @overload
    def apply_async(
        self: Callable[[A, B, C, D], Q], args: tuple[A, B, C, D], kwargs: None = None, *, task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[Q]: ...  # fmt: skip
    @overload
    def apply_async(
        self, args: tuple[Any, Any, Any, Any, Any, *tuple[Any, ...]], kwargs: None = None,
        *, task_id: str | None = None, **options: Any,
    ) -> AsyncResult[R]: ...  # fmt: skip
    @overload
    def apply_async(
        self,
        args: list[Any],
        kwargs: dict[str, Any] | None = None,
        *,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    def apply_async(
        self,
        args: tuple[Any, ...] | None,
        kwargs: dict[str, Any],
        *,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]: ...
    @overload
    def apply_async(
        self, args: None = None, *, kwargs: dict[str, Any], task_id: str | None = None, **options: Any
    ) -> AsyncResult[R]: ...
    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a call of the task, with options. When it returns, the broker has stored the message.

        With `connection`, the application's own to a PostgreSQL database that is the broker, the message is stored in
        its transaction: the task exists if and only if that commits.

        Raises:
            TypeError: the arguments do not fit the function.
            UnknownOption, ImproperlyConfigured: an option is misspelt or has a wrong value.
            EncodeError, MessageTooLarge: the arguments do not travel.
            BrokerUnavailable: not stored within `broker_publish_timeout` seconds in all.
        """
        road = self._road
        if road is None or road.version != road.conf.version:
            road = self._road = _Road(self)
        args, kwargs = args or (), kwargs or {}
        if not (issubclass(type(args), list | tuple) and issubclass(type(kwargs), dict)):
            raise TypeError(
                "the arguments of a task are a list or tuple, and a dict: apply_async((1, 2), {'x': 3})"
            )
        if self._stub is not None and self.typing:
            self._stub(*args, **kwargs)
        if (
            road.is_plain and not options and REQUEST.get() is None
            and task_id is producer is link is link_error is shadow is None
        ):  # fmt: skip
            made = Message(new_key(), self.name, args, kwargs, road.options)
            call = Call(made, road.queue, None, road.options.priority)
            road.producer.send(call)
            return AsyncResult.sent(call.message.key, road.origin)
        options.update(task_id=task_id, producer=producer, link=link, link_error=link_error, shadow=shadow)
        return self._apply_with(road, args, kwargs, options)

    def _apply_with(self, road: _Road, args: Any, kwargs: Any, options: dict[str, Any]) -> AsyncResult[R]:
        retry, policy = options.pop("retry", None), options.pop("retry_policy", None)
        throw = options.pop("throw", None)
        add_to_parent, connection = options.pop("add_to_parent", True), options.pop("connection", None)
        call = self.call_for(args, kwargs, options)
        if road.is_eager and context.COLLECTED.get() is None:
            return cast("AsyncResult[R]", self.app.run_eagerly(self, call, throw))
        road.producer.send(call, retry, policy, connection)
        origin = self.origin_of(call.message.options.ignore_result)
        result: AsyncResult[R] = AsyncResult.sent(call.message.key, origin, call.message.id)
        if add_to_parent:
            context.add_to_trail(result)
        return result

    def origin_of(self, ignored: bool | None) -> Origin:
        """What the result of a call has from its task, and from what the call says of keeping it."""
        if ignored is None:
            return self._current_road().origin
        return Origin(self.app, None, self.name, ignored, ignored)

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call to which these were given: what the task says itself comes in."""
        return self._current_road().completed(given)

    def call_for(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Call:
        """The call that `apply_async` would send."""
        road = self._current_road()
        given = {name: value for name, value in options.items() if value is not None}
        if "shadow" not in given and (shadow := self.shadow_name(args, kwargs, options)):
            given["shadow"] = shadow
        given = road.completed(given)
        return road.producer.call(self.name, args, kwargs, given, None, self)

    def bulk(self, options: Mapping[str, Any]) -> Pattern | None:
        """What calls with these options have in common; None where each must be asked for by itself."""
        road = self._current_road()
        if (
            road.is_eager
            or not road.producer.router.is_constant
            or any(_overrides(self, name) for name in ("apply_async", "shadow_name", "call_for"))
        ):
            return None
        check = self._stub if self.typing else None
        return Pattern(self.call_for((), {}, options), check, self.app, bool(road.origin.ignored))

    def _current_road(self) -> _Road:
        road = self._road
        if road is None or road.version != road.conf.version:
            road = self._road = _Road(self)
        return road

    def shadow_name(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str | None:
        """Another name for logs and monitors, where the class says so."""
        return None

    def apply(
        self, args: Any = None, kwargs: Any = None, throw: bool | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run the task here and now, as a worker would; retries follow at once. Options as of `apply_async`.

        The arguments go through the serializer, so that what would not travel fails here too. With `throw` (None:
        `task_eager_propagates`) the task's exception is raised.
        """
        for name in ("logfile", "loglevel", "add_to_parent"):
            options.pop(name, None)
        call = self.call_for(args or (), kwargs or {}, options)
        return cast("EagerResult[R]", self.app.run_eagerly(self, call, throw))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, as a function."""
        request = REQUEST.get()
        if (
            request is not None and request.task_object is self and self.target is self
            and not request.called_directly and not request.is_entered
        ):  # fmt: skip
            request.is_entered = True  # a `__call__` of the user's passes the worker's call on
            return cast("R", self.run(*args, **kwargs))
        request = Request(called_directly=True)
        request.update(args=args, kwargs=kwargs)
        with context.running(self, request):
            return cast("R", self.run(*args, **kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for coroutines: the event loop goes on while the broker answers."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """`apply_async` for coroutines. Those that send at the same time share a round trip to the broker.

        Raises: as `apply_async`. Cancelled while it waits, the message may have been sent.
        """
        send: Callable[..., Coroutine[Any, Any, AsyncResult[R]]] = plugins.own("celeriac.aio_sending:send")
        return await send(self, args, kwargs, options)

    # -- inside a run ---------------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """What is known of the call that runs; an empty one where the task does not run here."""
        return context.request_of(self) or Request(called_directly=True)

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make up a request, for tests."""
        request = Request()
        request.update(*args, called_directly=False, **kwargs)
        context.enter(self, request)

    def pop_request(self) -> None:
        """Undo `push_request`."""
        if (request := REQUEST.get()) is not None:
            context.leave(request)

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """End this run and ask for another, later. Always raises, but with `throw=False`.

        Raises:
            Retry: there will be another run.
            MaxRetriesExceededError, or `exc`: there will be none, `max_retries` is reached.
        """
        request = self.request
        if request.called_directly:
            raise exc or Retry("Task can be retried", None)
        limit = self.max_retries if max_retries is None else max_retries
        retries = request.retries + 1
        args, kwargs = retrying.arguments_of(self.run, request, args, kwargs)
        if limit is not None and retries > limit:
            if exc is not None:
                raise exc
            text = f"Can't retry {self.name}[{request.id}] args:{args} kwargs:{kwargs}"
            raise self.MaxRetriesExceededError(text, task_args=args, task_kwargs=kwargs)
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        options.update(eta=eta, countdown=countdown)
        call = retrying.successor(self.app.producer, request, args, kwargs, options)
        retry = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=call)
        request.pending_retry = retry
        if throw:
            raise retry
        return retry

    def replace(self, sig: Any) -> Any:
        """End this run, and let the signature take its place: under the same id, with all that was to follow.

        It is sent together with the end of this message. Write `return self.replace(other.s())`.

        Raises:
            Ignore: always.
            ImproperlyConfigured: an empty chain, or part of a chord.
        """
        successor = plugins.load("celeriac.workflow.replacing:successor")
        return self.on_replace(successor(sig, self.request, self.app))

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Make the signature one more member of this run's chord, and send it unless `lazy`. Raises: ValueError."""
        member = plugins.load("celeriac.workflow.joining:take_a_seat_more")(self.request, self.app, sig)
        return member if lazy else member.delay()

    def on_replace(self, sig: Signature) -> Any:
        """Called by `replace` with the signature to send. An override ends with `return super().on_replace(sig)`."""
        with context.following(self.request) as self.request.replacement:
            sig.apply_async()
        raise Ignore("Replaced by new task")

    def retry_of(self, exc: BaseException) -> Retry | None:
        """The retry that the task's options ask for after this exception; None where it is a failure."""
        if (
            not self.autoretry_for
            or not isinstance(exc, self.autoretry_for)
            or isinstance(exc, self.dont_autoretry_for)
        ):
            return None
        given = retrying.delays(self, self.request.retries)
        limit = given.get("max_retries", self.max_retries)
        if self.request.called_directly or (limit is not None and self.request.retries >= limit):
            return None
        return self.retry(exc=cast("Exception", exc), throw=False, **given)

    # -- running --------------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The function. A class that is not made by a decorator defines it."""
        raise NotImplementedError("Tasks must define the run method.")

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"

    def __reduce__(self) -> Any:
        return by_name, (self.name,)


FROM_SETTINGS: Final = frozenset(
    name for name, value in vars(Task).items() if isinstance(value, FromSettings)
)


def by_name(name: str) -> Any:
    """The task of that name in the current application; how a task is unpickled."""
    return context.current_app().tasks[name]


def _overrides(task: Task[..., Any], method: str) -> bool:
    """Whether the user has written this method anew."""
    if method in task.__dict__:
        return True
    return getattr(cast("type", type(task)), method) is not getattr(Task, method)
