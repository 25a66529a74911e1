"""The application: settings, tasks, the broker and the result store. Users make one: `app = Celeriac("proj")`.

It ties the lower modules together and does little itself. Nothing is connected or read before it is needed; the
broker and the result store are opened once for a process and are safe to use after a fork.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    cast,
    overload,
)

from celeriac import clock, context, importing, plugins, task_options
from celeriac.app.openings import Openings
from celeriac.async_result import AsyncResult, EagerResult
from celeriac.backend import Backend
from celeriac.brokers.contract import Broker
from celeriac.configuration import Settings
from celeriac.declaring import annotate, declare, gen_name
from celeriac.exceptions import AlwaysEagerIgnored, ImproperlyConfigured, SettingHasNoEffect, UnknownOption
from celeriac.producer import Call, Producer
from celeriac.registry import BUILTINS, TaskRegistry
from celeriac.result_sets import ResultSet, group_results_of, result_from_tuple
from celeriac.settings import SETTINGS
from celeriac.task import Task
from celeriac.waiting import Origin
from celeriac.workflow.signature import Signature, signature

if TYPE_CHECKING:
    from celeriac.control.commands import Control
    from celeriac.dispatch import Signal

P = ParamSpec("P")
R = TypeVar("R")

#: Celery's constructor arguments that have nothing to act on here.
WITHOUT_EFFECT: Final = frozenset(
    {"loader", "amqp", "events", "log", "control", "tasks", "fixups", "autofinalize", "changes_cls"}
)
_ARGUMENTS: Final = (
    "main", "broker", "backend", "include", "set_as_current", "task_cls", "config_source", "namespace", "changes",
    "strict_typing",
)  # fmt: skip


class Celeriac:
    """An application. Safe to use from several threads."""

    #: Sent when everything is configured (with `source`, the settings), and when everything is declared.
    on_after_configure: Signal
    on_after_finalize: Signal
    add_periodic_task: Callable[..., str]

    def __init__(
        self,
        main: str | None = None,
        broker: str | Sequence[str] | None = None,
        backend: str | None = None,
        include: Iterable[str] | None = None,
        set_as_current: bool = True,
        task_cls: Any = None,
        config_source: Any = None,
        namespace: str | None = None,
        changes: Mapping[str, Any] | None = None,
        strict_typing: bool = True,
        **settings: Any,
    ) -> None:
        """Make an application; any setting may be given by name.

        Raises:
            UnknownOption: a name is neither an argument nor a setting; the nearest right one is in the text.
            ImproperlyConfigured: a setting has a wrong value.
        """
        self.main = main
        self.strict_typing = strict_typing
        self.tasks = TaskRegistry()
        self.tasks.make_builtin = self._add_builtin
        self.conf = Settings()
        self.openings = Openings(self.conf)
        #: In a worker: the task modules that are imported when they are needed.
        self.modules: Any = None
        self.finalized = False
        self._lock = threading.RLock()
        self._producer: Producer | None = None
        self._packages: list[tuple[Any, str | None]] = []
        self.Task: type[Task[..., Any]] = Task
        if task_cls is not None:
            self.Task = plugins.load(importing.colon(task_cls)) if isinstance(task_cls, str) else task_cls
        given = {**(changes or {}), **settings}
        given |= {
            name: value
            for name, value in (("broker_url", broker), ("result_backend", backend), ("include", include))
            if value is not None
        }
        self._configure(given, config_source, namespace)
        if set_as_current:
            self.set_current()
        context.APPS.add(self)

    def _configure(self, given: Mapping[str, Any], config_source: Any, namespace: str | None) -> None:
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if name in WITHOUT_EFFECT:
                if value is not None:
                    warnings.warn(
                        f"the argument {name!r} of Celeriac has no effect", SettingHasNoEffect, stacklevel=4
                    )
            elif name in self.conf:
                kept[name] = list(value) if name == "include" and not isinstance(value, str) else value
            else:
                near = plugins.nearest(name, [*_ARGUMENTS, *SETTINGS])
                raise UnknownOption(f"Celeriac has no argument {name!r}, and there is no such setting.{near}")
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)
        else:
            self.conf.config_from_environment_module()
        if kept:
            self.conf.write(kept, "Celeriac(...)")

    # -- settings -------------------------------------------------------------------------------------------

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Read settings from an object, or from what `module` or `module:attribute` names.

        Raises:
            UnknownSetting, ImproperlyConfigured: a name or a value is wrong.
            ImportError: the module cannot be imported, unless `silent`.
        """
        try:
            self.conf.config_from_object(obj, namespace)
        except ImportError:
            if not silent:
                raise

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Read the settings module that an environment variable names. Returns whether there was one.

        Raises: ImproperlyConfigured: the variable is not set, unless `silent`.
        """
        name = importing.environment(variable_name)
        if name:
            self.config_from_object(name, silent)
            return True
        if silent:
            return False
        raise ImproperlyConfigured(
            f"the environment variable {variable_name!r} is not set: it should name a settings module"
        )

    def config_from_cmdline(self, argv: Iterable[str], namespace: str = "worker") -> None:
        """Read `name=value` texts of a command line."""
        self.conf.config_from_cmdline(argv, namespace)

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Replace defaults; what is configured wins over them."""
        self.conf.add_defaults(fun)

    @property
    def timezone(self) -> tzinfo:
        """The zone of naive times."""
        zone = self.conf.timezone
        if zone is None:
            return UTC
        if isinstance(zone, str):
            try:
                return cast("tzinfo", plugins.load("zoneinfo:ZoneInfo")(zone))
            except (KeyError, ValueError) as exc:
                raise ImproperlyConfigured(f"'timezone' names no time zone: {zone!r}") from exc
        return cast("tzinfo", zone)

    def now(self) -> datetime:
        """The present, in the application's time zone."""
        return clock.now_datetime().astimezone(self.timezone)

    # -- tasks ----------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        bind: Literal[True],
        name: str | None = ...,
        base: type[Task[..., Any]] | None = ...,
        **options: Any,
    ) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
    @overload
    def task(
        self, *, bind: Literal[False] = ..., name: str | None = ..., base: type[Task[..., Any]] | None = ...,
        **options: Any,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...  # fmt: skip
    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(bind=True, ignore_result=False...)`.

        Raises:
            UnknownOption, ImproperlyConfigured: an option is misspelt or has a wrong value.
            AlreadyRegistered: another function has that name.
        """
        if len(args) == 1 and callable(args[0]):
            return self.add_function(args[0], options.pop("name", None), options)
        if args:
            raise TypeError("@app.task() takes one function, and options by name")

        def decorator(function: Callable[..., Any]) -> Task[..., Any]:
            given = dict(options)
            return self.add_function(function, given.pop("name", None), given)

        return decorator

    def add_function(
        self, function: Callable[..., Any], name: str | None, options: dict[str, Any]
    ) -> Task[..., Any]:
        """The task of a function; what the decorators do."""
        if isinstance(function, Task):
            raise TypeError(f"{function.name!r} is a task already: it cannot be declared twice")
        base = options.pop("base", None) or self.Task
        bind = options.pop("bind", False)
        options.pop("lazy", None)
        shared = options.pop("shared", False)
        if not self.strict_typing:
            options.setdefault("typing", False)
        if name is None:
            own = getattr(function, "__name__", type(function).__name__)
            name = self.gen_task_name(own, function.__module__)
        task = declare(base, function, name, options, bind=bind)
        self._add(task)
        if shared:
            context.APPS.share(
                lambda app: (
                    None
                    if name in app.tasks
                    else app.add_function(function, name, {"base": base, "bind": bind, **options})
                )
            )
        return task

    def register_task(self, task: Any, **options: Any) -> Any:
        """Add a task that is an instance of a class of the user's (or such a class). Returns the instance."""
        if isinstance(task, type):
            task = task()
        kind: type[Any] = task.__class__
        if not task.name:
            task.name = self.gen_task_name(kind.__name__, kind.__module__)
        body: dict[str, Any] = {
            key: value
            for one in reversed(kind.__mro__)
            if one not in Task.__mro__
            for key, value in vars(one).items()
        }
        for option, value in task_options.check_class(body, task.name).items():
            setattr(task, option, value)
        for option, value in task_options.check(options, kind, task.name).items():
            setattr(task, option, value)
        self._add(task)
        return task

    def _add_builtin(self, name: str) -> Task[..., Any]:
        """The task of that name that every application has."""
        function = plugins.load("celeriac.workflow.builtins:FUNCTIONS")[name]
        return self.add_function(function, name, {"bind": True, "base": Task, "ignore_result": False})

    def _add(self, task: Task[..., Any]) -> None:
        task.bind(self)
        self.tasks.register(task)
        if self.finalized:
            annotate(task, self.conf.task_annotations)
            task.fix()

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task whose declaration gives none. Override it for names of your own making."""
        return gen_name(name, module, self.main)

    def finalize(self, auto: bool = False) -> None:
        """Everything is declared and configured: tasks take the settings as they are. A worker calls it."""
        with self._lock:
            is_first, self.finalized = not self.finalized, True
            if is_first and "on_after_configure" in self.__dict__:
                self.on_after_configure.send(sender=self, source=self.conf)
            for name in BUILTINS:
                self.tasks[name]
            for task in self.tasks.values():
                annotate(task, self.conf.task_annotations)
                task.fix()
            if is_first and "on_after_finalize" in self.__dict__:
                self.on_after_finalize.send(sender=self)

    def autodiscover_tasks(
        self, packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks", force: bool = False,
    ) -> None:  # fmt: skip
        """Import `<package>.<related_name>` of these packages, when tasks are loaded (at once with `force`)."""
        self._packages.append((packages, related_name))
        if force:
            self._discover()

    def load_tasks(self, extra: Iterable[str] = ()) -> None:
        """Import the modules of `imports` and `include`, `extra` ones, and what `autodiscover_tasks` names.

        Raises: ImportError, and whatever the modules raise.
        """
        with context.as_current(self):
            for module in (*self.conf.imports, *self.conf.include, *extra):
                plugins.load(module)
            self._discover()

    def _discover(self) -> None:
        for package, related in self.discovered():
            importing.import_related(package, related)

    def discovered(self) -> list[tuple[str, str | None]]:
        """The packages that `autodiscover_tasks` was given, and what to look for in each."""
        packages, self._packages = self._packages, []
        found: list[tuple[str, str | None]] = []
        for names, related in packages:
            listed: Any = names() if callable(names) else names
            found += (
                (package, related) for package in (importing.django_apps() if listed is None else listed)
            )
        return found

    # -- sending --------------------------------------------------------------------------------------------

    @property
    def producer(self) -> Producer:
        """The way out, under the settings of this moment."""
        producer = self._producer
        if producer is None or producer.version != self.conf.version:
            producer = self._producer = Producer(
                self.conf, lambda: self.openings.sender, lambda: self.timezone
            )
        return producer

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send a call of a task by name; the task need not be known here. Options as of `apply_async`."""
        if self.conf.task_always_eager:
            warnings.warn(
                f"send_task({name!r}) ignores task_always_eager: it sends a message",
                AlwaysEagerIgnored,
                stacklevel=2,
            )
        retry, policy = options.pop("retry", None), options.pop("retry_policy", None)
        add_to_parent, connection = options.pop("add_to_parent", True), options.pop("connection", None)
        producer = self.producer
        known = self.tasks.get(name)
        if known is not None:
            given = {option: value for option, value in options.items() if value is not None}
            options = known.completed(given)
        call = producer.call(name, args or (), kwargs or {}, options, None, known)
        producer.send(call, retry, policy, connection)
        asked = call.message.options.ignore_result
        origin = known.origin_of(asked) if known is not None else Origin(self, None, name, asked, bool(asked))
        result: AsyncResult = AsyncResult.sent(call.message.key, origin, call.message.id)
        if add_to_parent:
            context.add_to_trail(result)
        return result

    def send_many(self, calls: Iterable[Call]) -> None:
        """Send many calls, in bulk. Raises: as `Task.apply_async`."""
        self.producer.send_many(calls)

    def run_eagerly(self, task: Task[..., Any], call: Call, throw: bool | None = None) -> EagerResult:
        """Run a call here and now; see `eager`."""
        return cast("EagerResult", plugins.load("celeriac.eager:run_here")(self, task, call, throw))

    # -- broker and results ---------------------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """Where messages are sent; of several, the one that is in use. Opens no connection: its first verb does."""
        return self.openings.broker

    @property
    def reader(self) -> Broker:
        """Where workers take messages: `broker`, unless `broker_read_url` says otherwise."""
        return self.openings.reader

    @property
    def backend(self) -> Backend:
        """Where results are kept: at the broker, unless `result_backend` says otherwise."""
        return self.openings.backend

    def AsyncResult(self, id: str, **kwargs: Any) -> AsyncResult:
        """The result of an earlier call, by its id."""
        kwargs.setdefault("app", self)
        return AsyncResult(id, **kwargs)

    @property
    def GroupResult(self) -> Any:
        """Makes the results of a group: `app.GroupResult(id, results)`, `app.GroupResult.restore(id)`."""
        return group_results_of(self)

    def ResultSet(self, results: Iterable[Any], **kwargs: Any) -> ResultSet:
        """Several results."""
        kwargs.setdefault("app", self)
        return ResultSet(results, **kwargs)

    def result_from_tuple(self, form: Any) -> Any:
        """The result that `as_tuple` took apart."""
        return result_from_tuple(form, self)

    def signature(self, varies: Any, *args: Any, **kwargs: Any) -> Signature:
        """A signature of a task of this application."""
        kwargs.setdefault("app", self)
        return signature(varies, *args, **kwargs)

    @property
    def control(self) -> Control:
        """Remote control: revoking tasks, asking workers."""
        return cast("Control", plugins.load("celeriac.control.commands:Control")(self))

    # -- current --------------------------------------------------------------------------------------------

    @property
    def current_task(self) -> Any:
        """The Task that runs here, or None."""
        return context.current_task()

    @property
    def current_worker_task(self) -> Any:
        """The Task whose message is run here, or None."""
        request = context.worker_request()
        return None if request is None else request.task_object

    def set_current(self) -> None:
        """Make it the application that shared tasks and `current_app` use here."""
        context.APPS.set_current(self)

    def set_default(self) -> None:
        """Make it that of all threads."""
        context.APPS.set_default(self)

    def close(self) -> None:
        """Close all connections. Idempotent; a later call opens new ones."""
        self.openings.close()
        context.APPS.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What few programs ask for. Raises: AttributeError: there is none; the text says what to use instead."""
            return plugins.load("celeriac.app.rarely:attribute")(self, name)

    def __repr__(self) -> str:
        return f"<Celeriac {self.main or '__main__'}>"


Celery = Celeriac
