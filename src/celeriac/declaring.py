"""From a function to a task: what the decorators `@app.task` and `@shared_task` do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar, cast, overload

from celeriac import context, plugins, task_options
from celeriac.exceptions import ImproperlyConfigured
from celeriac.task import FROM_SETTINGS, Task

P = ParamSpec("P")
R = TypeVar("R")

#: Options that only a function with models among its arguments has a use for (see `models`).
_ABOUT_MODELS: Final = frozenset({"pydantic", "pydantic_strict", "pydantic_context", "pydantic_dump_kwargs"})


def gen_name(name: str, module: str, main: str | None) -> str:
    """The name of a task whose function has none: `module.function`; a script's own name stands for `__main__`."""
    if module == "__main__":
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        module = main or (os.path.splitext(os.path.basename(script))[0] if script else "")
    return f"{module}.{name}" if module else name


def declare(
    base: type[Task[..., Any]],
    function: Callable[..., Any],
    name: str,
    options: dict[str, Any],
    *,
    bind: bool,
) -> Task[..., Any]:
    """The task that a decorator makes of a function: an instance of `base`.

    Raises:
        UnknownOption, ImproperlyConfigured: see `task_options.check`; pydantic is asked for and not installed.
    """
    about_models = {option: value for option, value in options.items() if option in _ABOUT_MODELS}
    others = {option: value for option, value in options.items() if option not in about_models}
    checked = task_options.check(others, base, name)
    task = base()
    task.name = name
    task.__dict__["run"] = MethodType(function, task) if bind else function
    task.__dict__["__wrapped__"] = function
    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        if (own := getattr(function, attribute, None)) is not None:
            task.__dict__[attribute] = own
    for option, value in checked.items():
        if value is None and option in FROM_SETTINGS:
            continue
        setattr(task, option, _attribute(task, option, value))
    if about_models.pop("pydantic", False):
        _take_models(task, function, about_models, bind=bind)
    return task


def _take_models(
    task: Task[..., Any], function: Callable[..., Any], terms: dict[str, Any], *, bind: bool
) -> None:
    try:
        models = plugins.load("celeriac.models")
    except ModuleNotFoundError as exc:
        raise ImproperlyConfigured(
            f"task {task.name!r} has pydantic=True, which needs the package {exc.name!r}: "
            "install it with  pip install 'celeriac[pydantic]'"
        ) from exc
    given = {name.removeprefix("pydantic_"): value for name, value in terms.items()}
    models.take_models(task, function, models.Terms(**given), bind=bind)


def _attribute(task: Task[..., Any], option: str, value: Any) -> Any:
    """A function in the place of a method is one: `@app.task(on_failure=tell_somebody)`."""
    is_method = callable(value) and not isinstance(value, type) and option not in task_options.KINDS
    return MethodType(value, task) if is_method else value


class SharedTask:
    """A task of every application, found in the current one when it is used."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__name__: str = getattr(function, "__name__", type(function).__name__)
        self.__module__ = function.__module__
        self._options = options
        self._own_name: str | None = options.pop("name", None)
        context.APPS.share(self.join)

    def join(self, app: Any) -> None:
        """Make it a task of that application."""
        app.add_function(self.__wrapped__, self.name_in(app), dict(self._options))

    def name_in(self, app: Any) -> str:
        """Its name there."""
        name: str = self._own_name or app.gen_task_name(self.__name__, self.__wrapped__.__module__)
        return name

    def here(self) -> Task[..., Any]:
        """The Task of the current application. Raises: ImproperlyConfigured: there is none."""
        app = context.current_app()
        task: Task[..., Any] = app.tasks[self.name_in(app)]
        return task

    #: What Celery calls it.
    _get_current_object = here

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs) if self._is_plain() else self.here()(*args, **kwargs)

    def _is_plain(self) -> bool:
        """Whether it can be called as a function without any application."""
        return not self._options.get("bind") and context.APP.get() is None and context.APPS.default is None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.here(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.here(), name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any = getattr(self.here(), name)
        return value

    def __reduce__(self) -> Any:
        return self.here().__reduce__()

    def __repr__(self) -> str:
        return f"<@shared_task: {self._own_name or self.__name__}>"


def annotate(task: Task[..., Any], annotations: Any) -> None:
    """Set the attributes that `task_annotations` has for this task: a dict, a list of them, or objects with
    `annotate(task)`. What stands under its name wins over what stands under `*`.

    Raises:
        UnknownOption, ImproperlyConfigured: see `task_options.check`.
    """
    if annotations is None:
        return
    rules = cast("list[Any]", annotations if isinstance(annotations, list | tuple) else [annotations])
    for rule in rules:
        if hasattr(rule, "annotate"):
            found: dict[str, Any] = rule.annotate(task) or {}
        else:
            found = {**(rule.get("*") or {}), **(rule.get(task.name) or {})}
        for option, value in task_options.check(found, type(task), task.name).items():
            setattr(task, option, _attribute(task, option, value))


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(
    *, bind: Literal[True], name: str | None = ..., base: type[Task[..., Any]] | None = ..., **options: Any
) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
@overload
def shared_task(
    *,
    bind: Literal[False] = ...,
    name: str | None = ...,
    base: type[Task[..., Any]] | None = ...,
    **options: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task of a function, for every application there is and will be: for libraries and Django apps."""
    if len(args) == 1 and callable(args[0]):
        return SharedTask(args[0], options)
    if args:
        raise TypeError("@shared_task() takes one function, and options by name")

    def decorator(function: Callable[..., Any]) -> SharedTask:
        return SharedTask(function, dict(options))

    return decorator
