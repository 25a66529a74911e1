"""Signature: a call that has not been made yet, as a value: sent later, linked, chained, grouped.

A signature is a dict, as with Celery, so that it travels as an argument and through JSON: `task`, `args`,
`kwargs`, `options`, `subtask_type` and `immutable`. It knows its application only as a `Sender`.

Chains and groups are signatures with a type of their own (`register_type`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, TypeVar, cast

from celeriac import context, message, plugins
from celeriac.async_result import AsyncResult
from celeriac.context import Sender
from celeriac.exceptions import ImproperlyConfigured
from celeriac.registry import BUILTINS
from celeriac.send_options import compact

#: The class of each `subtask_type`: a registry, filled when the classes are made.
TYPES: Final[dict[str, type[Signature]]] = {}

#: Types of our own whose modules are loaded when they are first needed.
_LATER: Final[Mapping[str, str]] = {
    "chain": "celeriac.workflow.chain",
    "group": "celeriac.workflow.group",
    "chord": "celeriac.workflow.chord",
    **dict.fromkeys(("xmap", "xstarmap", "chunks"), "celeriac.workflow.mapping"),
}

S = TypeVar("S", bound="Signature")


def register_type(name: str) -> Callable[[type[S]], type[S]]:
    """A class decorator: dicts with this `subtask_type` become signatures of that class."""

    def register(subclass: type[S]) -> type[S]:
        TYPES[name] = subclass
        return subclass

    return register


def _of_type(name: str) -> type[Signature]:
    """The class of a `subtask_type`. Raises: ImproperlyConfigured: there is none."""
    if name in _LATER and name not in TYPES:
        plugins.load(_LATER[name])
    if name not in TYPES:
        raise ImproperlyConfigured(f"this version knows no signature of type {name!r}")
    return TYPES[name]


class Signature(dict[str, Any]):
    """One call of one task: name, arguments, options."""

    _app: Sender | None = None
    subtask_type_name: ClassVar[str | None] = None

    def __init__(
        self,
        task: Any = None,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
        app: Sender | None = None,
        **extra: Any,
    ) -> None:
        self._app = app
        if isinstance(task, Mapping):
            super().__init__(cast("Mapping[str, Any]", task))
            self.setdefault("args", ())
            for field in ("kwargs", "options"):
                self[field] = dict(self.get(field) or {})
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            return
        name: Any = task if task is None or isinstance(task, str) else task.name
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=dict(kwargs) if kwargs else {},
            subtask_type=extra.pop("subtask_type", None),
            options={**(options or {}), **extra},
            immutable=immutable,
        )

    @classmethod
    def of(
        cls, name: str, args: Any, kwargs: dict[str, Any], immutable: bool, app: Sender | None
    ) -> Signature:
        """The plain signature of a call, made quickly: `group(task.s(i) for i in range(1_000_000))`."""
        made = cls.__new__(cls)
        made["task"], made["args"], made["kwargs"] = name, args, kwargs
        made["options"], made["subtask_type"], made["immutable"] = {}, None, immutable
        made._app = app
        return made

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """A class decorator for types of one's own: dicts with this `subtask_type` become signatures of that class."""
        return lambda subclass: register_type(name or subclass.__name__)(subclass)

    @classmethod
    def from_dict(cls, form: Mapping[str, Any], app: Sender | None = None) -> Signature:
        """The signature that a dict describes, of the class that its `subtask_type` names."""
        kind = form.get("subtask_type")
        target = _of_type(kind) if kind else Signature
        if target is cls or target is Signature:
            return Signature(form, app=app)
        return target.from_dict(form, app)

    # -- fields ---------------------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """The task's name."""
        return cast("str", self["task"])

    @property
    def args(self) -> Any:
        """The arguments by place."""
        return self["args"]

    @args.setter
    def args(self, args: Any) -> None:
        self["args"] = args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments by name."""
        return cast("dict[str, Any]", self["kwargs"])

    @kwargs.setter
    def kwargs(self, kwargs: dict[str, Any]) -> None:
        self["kwargs"] = kwargs

    @property
    def options(self) -> dict[str, Any]:
        """The options with which it will be sent."""
        return cast("dict[str, Any]", self["options"])

    @options.setter
    def options(self, options: dict[str, Any]) -> None:
        self["options"] = options

    @property
    def subtask_type(self) -> str | None:
        """None for a plain call; `chain`, `group`..."""
        return cast("str | None", self["subtask_type"])

    @property
    def immutable(self) -> bool:
        """Whether it takes no result of an earlier step."""
        return bool(self["immutable"])

    @property
    def id(self) -> str | None:
        """The task id, once `freeze` has set it."""
        return self.options.get("task_id")

    @property
    def parent_id(self) -> str | None:
        """The id of the task that sends it, if set."""
        return self.options.get("parent_id")

    @property
    def root_id(self) -> str | None:
        """The id of the first task, if set."""
        return self.options.get("root_id")

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @property
    def type(self) -> Any:
        """The Task. Raises: NotRegistered."""
        return self.app.tasks[self.task]

    @property
    def app(self) -> Sender:
        """The application: the given one, else the current one."""
        return self._app if self._app is not None else cast("Sender", context.current_app())

    # -- making others of it ---------------------------------------------------------------------------------

    def merged(
        self,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Arguments and options with these added: by place in front, by name over. Immutable: options only."""
        merged_options = {**self.options, **options} if options else dict(self.options)
        if self.immutable:
            return self.args, self.kwargs, merged_options
        merged_args = (*args, *self.args) if args else self.args
        return merged_args, ({**self.kwargs, **kwargs} if kwargs else self.kwargs), merged_options

    def clone(self, args: Any = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """A copy, with more arguments or options."""
        args, kwargs, options = self.merged(args, kwargs, options)
        other = self.from_dict(
            {**self, "args": tuple(args), "kwargs": dict(kwargs), "options": options}, self._app
        )
        for name in ("link", "link_error"):
            if name in options:
                options[name] = list(listed(options[name]))
        return cast("Self", other)

    partial = clone

    def replace(
        self,
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with other arguments or options instead."""
        other = self.clone()
        for name, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                other[name] = value
        return other

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it takes no result of an earlier step."""
        self["immutable"] = immutable

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give it an id now; returns the result that it will have."""
        task_id = _id or self.id or message.id_of(message.new_key())
        names = {"group_id", "chord", "root_id", "parent_id", "group_index"}
        given = {name: value for name, value in options.items() if value is not None and name in names}
        self.options.update(given, task_id=task_id)
        return self.result_of(task_id)

    def result_of(self, task_id: str) -> AsyncResult:
        """The result of it under an id, knowing whether it will be kept."""
        ignored = self.options.get("ignore_result")
        if ignored is None and (task := self.app.tasks.get(self.task)) is not None:
            ignored = task.ignore_result
        return AsyncResult(task_id, None, self.task, self._app, None, ignored)

    def link(self, callback: Any) -> Any:
        """Send `callback` with the result when the task has succeeded; returns the callback."""
        return self._append("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Send or call `errback` when the task has failed; returns the errback."""
        return self._append("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """`link_error`, but returns itself."""
        self.link_error(errback)
        return self

    def _append(self, option: str, signature: Any) -> Any:
        known = self.options[option] = list(listed(self.options.get(option)))
        if signature not in known:
            known.append(signature)
        return signature

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Self:
        """Put stamps on it, and on all that is in it or linked to it (see `workflow.stamping`); returns itself."""
        plugins.load("celeriac.workflow.stamping:stamp")(self, visitor, append_stamps, headers)
        return self

    def stamp_links(self, visitor: Any, append_stamps: bool = False, **headers: Any) -> None:
        """Put stamps on what is linked to it."""
        plugins.load("celeriac.workflow.stamping:stamp_links")(self, visitor, append_stamps, headers)

    def flatten_links(self) -> list[Signature]:
        """Itself, and all that is linked to it, and to those."""
        links = [maybe_signature(link, self._app) for link in listed(self.options.get("link"))]
        return [self, *(deep for link in links for deep in link.flatten_links())]

    # -- for signatures that are made of others --------------------------------------------------------------

    def dressed_as(self, form: Mapping[str, Any]) -> Self:
        """Itself, with the arguments of a form and its immutability."""
        self["args"] = tuple(form.get("args") or ())
        self["kwargs"].update({name: value for name, value in form["kwargs"].items() if name != "tasks"})
        self["immutable"] = bool(form.get("immutable", False))
        return self

    def own_kwargs(self) -> dict[str, Any]:
        """The arguments by name that are for the tasks inside it."""
        return {name: value for name, value in self.kwargs.items() if name != "tasks"}

    def app_of(self, members: Sequence[Signature]) -> Sender:
        """The application: the given one, else that of the first member, else the current one."""
        if self._app is not None or not members:
            return self._app if self._app is not None else cast("Sender", context.current_app())
        return members[0].app

    def unrolled(self) -> Signature:
        """What is to run in its place where that is simpler."""
        return self

    def first_and_rest(self) -> tuple[Signature, list[dict[str, Any]]]:
        """The plain signature with which it begins, and the steps behind that as they travel."""
        return self.clone(), []

    def passed_through(self) -> tuple[Signature, list[dict[str, Any]]]:
        """`first_and_rest` for what begins with many tasks: a task that hands its argument on comes first. It has the
        error callbacks of what is then not sent, since it fails where that is not to run."""
        first = Signature("celery.accumulate", (), {"index": 0}, app=self._app)
        if errbacks := errbacks_of(self):
            first.options["link_error"] = errbacks
        return first, [compact(self)]

    # -- sending --------------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments added."""
        return self.apply_async(args, kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it, with arguments and options added. Raises: as `Task.apply_async`."""
        args, kwargs, options = self.merged(args, kwargs, options)
        app = self.app
        task = app.tasks.get(self.task)
        if task is None and self.task in BUILTINS and self.runs_here():
            task = app.tasks[self.task]
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        return app.send_task(self.task, args, kwargs, **options)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run it here and now, and of a workflow all that belongs to it. A failure is in the result; with `throw`
        (None: `task_eager_propagates`) it is raised.

        Raises: NotRegistered
        """
        args, kwargs, options = self.merged(args, kwargs, options)
        return self.type.apply(args, kwargs, **options)

    def runs_here(self) -> bool:
        """Whether sending it means running it: where everything runs in its caller, what is not part of a whole."""
        is_eager: bool = getattr(self.app.conf, "task_always_eager", False)
        return is_eager and context.COLLECTED.get() is None

    def run_here(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """`apply` for what is made of others."""
        throw = options.pop("throw", None)
        run = plugins.load("celeriac.eager:run_workflow")
        return run(self.app, lambda: self.apply_async(args, kwargs, **options), throw)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with these arguments added, as a function."""
        args, kwargs, _ = self.merged(args, kwargs)
        return self.type(*args, **kwargs)

    def __invert__(self) -> Any:
        return self.apply_async().get()

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _of_type("chain").from_steps(self, other, app=self._app)  # type: ignore[attr-defined]

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text: `proj.add(2, 2)`."""
        args, kwargs, _ = self.merged(args, kwargs)
        parts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: Any) -> Self:
        return self.clone()

    def __copy__(self) -> Self:
        return self.clone()

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)


def listed(value: Any) -> list[Any]:
    """One or many, or None, as a list."""
    if value is None:
        return []
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def errbacks_of(form: Mapping[str, Any]) -> list[Any]:
    """The error callbacks that a failure before a signature calls: its own, and those of the tasks at its end."""
    kwargs: dict[str, Any] = form.get("kwargs") or {}
    options: dict[str, Any] = form.get("options") or {}
    own = listed(options.get("link_error"))
    match form.get("subtask_type"):
        case "chain" if kwargs["tasks"]:
            last = errbacks_of(kwargs["tasks"][-1])
            return own + [errback for errback in last if errback not in own]
        case "chord":
            return own + errbacks_of(kwargs["body"])
        case "group":
            return own + [errback for member in kwargs["tasks"] for errback in errbacks_of(member)]
        case _:
            return own


def signature(varies: Any, *args: Any, app: Sender | None = None, **kwargs: Any) -> Signature:
    """The signature of a task or a name, or the one that a dict describes."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(cast("Mapping[str, Any]", varies), app)
    kwargs["app"] = app
    return Signature(varies, *args, **kwargs)


def maybe_signature(form: Any, app: Sender | None = None) -> Any:
    """The signature that a dict describes; a task's own; a signature, or None, as it is."""
    if callable(getattr(form, "s", None)) and not isinstance(form, Mapping):
        return form.s()
    if isinstance(form, Mapping) and not isinstance(form, Signature):
        return Signature.from_dict(cast("Mapping[str, Any]", form), app)
    return form
