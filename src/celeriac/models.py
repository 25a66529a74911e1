"""Pydantic models as arguments and results: `@app.task(pydantic=True)`.

Models travel as the dicts that they dump to. The function gets what its annotations ask for, validated anew; a model
that it returns, where it says that it does, is dumped. Loaded for the first task that asks for it.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec
from pydantic import BaseModel, ValidationError


class Terms(msgspec.Struct, frozen=True):
    """How a task wants its models: pydantic's own words for `model_validate` and `model_dump`."""

    strict: bool = False
    context: Mapping[str, Any] | None = None
    dump_kwargs: Mapping[str, Any] | None = None

    def dump(self, model: BaseModel) -> dict[str, Any]:
        """The model as plain data."""
        options: dict[str, Any] = {"mode": "json", **(self.dump_kwargs or {})}
        return model.model_dump(**options)


def take_models(task: Any, function: Callable[..., Any], terms: Terms, *, bind: bool) -> None:
    """Let a task that was just made of this function take and return models.

    Raises: ValueError, TypeError: the function has no signature that can be read.
    """
    signature = inspect.signature(function)
    models = _models_of(function, signature)
    returned = models.pop("return", None)

    def validated(args: Any, kwargs: Any) -> inspect.BoundArguments:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in models and value is not None:
                bound.arguments[name] = _validate(task, models[name], value, terms)
        return bound

    def dumped(value: Any) -> Any:
        return terms.dump(value) if returned is not None and isinstance(value, returned) else value

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        return dumped(function(*bound.args, **bound.kwargs))

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        return dumped(await function(*bound.args, **bound.kwargs))

    wrapper = run_async if inspect.iscoroutinefunction(function) else run
    task.__dict__["run"] = types.MethodType(wrapper, task) if bind else wrapper
    task.__dict__["call_for"] = _sender(task, signature, models, terms, bind=bind)


def _sender(
    task: Any,
    signature: inspect.Signature,
    models: Mapping[str, type[BaseModel]],
    terms: Terms,
    *,
    bind: bool,
) -> Callable[..., Any]:
    """`Task.call_for` for arguments that may be models."""
    places = [one.name for one in signature.parameters.values() if one.kind in _BY_PLACE][1 if bind else 0 :]

    def plain(name: str | None, value: Any) -> Any:
        model = models.get(name) if name is not None else None
        if model is None or not isinstance(value, BaseModel):
            return value
        try:
            data = terms.dump(value)
            is_whole = _validate(task, model, data, terms) == value
        except (ValidationError, ValueError, TypeError):
            # It cannot be made again of its own data: the error that it does not travel tells more.
            return value
        return data if is_whole else value

    kind: Any = task.__class__

    def call_for(args: Any, kwargs: Any, options: Mapping[str, Any]) -> Any:
        args = [plain(places[n] if n < len(places) else None, value) for n, value in enumerate(args)]
        kwargs = {name: plain(name, value) for name, value in kwargs.items()}
        return kind.call_for(task, args, kwargs, options)

    return call_for


def _validate(task: Any, model: type[BaseModel], value: Any, terms: Terms) -> BaseModel:
    own = {**(terms.context or {}), "celery_app": task.app, "celery_task_name": task.name}
    return model.model_validate(value, strict=terms.strict, context=own)


def _models_of(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, type[BaseModel]]:
    """Parameter (and `return`) -> the model that its annotation names, alone or with None."""
    try:
        hints: dict[str, Any] = typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):  # an annotation that cannot be read from here
        hints = {name: one.annotation for name, one in signature.parameters.items() if one.kind in _NAMED}
        hints["return"] = signature.return_annotation
    found: dict[str, type[BaseModel]] = {}
    for name, hint in hints.items():
        kinds = [kind for kind in _kinds(hint) if kind is not type(None)]
        is_one = len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel)
        if is_one and (name == "return" or signature.parameters[name].kind in _NAMED):
            found[name] = cast("type[BaseModel]", kinds[0])
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


_BY_PLACE: Final = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})
_NAMED: Final = _BY_PLACE | {inspect.Parameter.KEYWORD_ONLY}
