"""Whether arguments fit a function: Python's own check, without running the function.

For every task one empty function with the same parameters is compiled; calling it costs a tenth of
`inspect.Signature.bind` and raises the very TypeError that the real call would.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, cast


def checker(function: Callable[..., Any]) -> Callable[..., None]:
    """A function that returns None where the arguments fit `function`, and raises TypeError where they do not."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C do not tell
        return _accept_anything
    stub = cast("Callable[..., None]", eval(f"lambda {_written(parameters)}: None", {}))
    stub.__name__ = stub.__qualname__ = getattr(function, "__name__", type(function).__name__)
    return stub


def _accept_anything(*args: Any, **kwargs: Any) -> None:
    return None


def _written(parameters: list[Parameter]) -> str:
    """The parameters as they stand between `lambda` and the colon; every default is None."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in parameters]
    for place, parameter in enumerate(parameters):
        kind = parameter.kind
        default = "" if parameter.default is Parameter.empty else "=None"
        if kind is Parameter.VAR_POSITIONAL:
            parts.append(f"*{parameter.name}")
            continue
        if kind is Parameter.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
            continue
        if kind is Parameter.KEYWORD_ONLY and not {Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY} & set(
            kinds[:place]
        ):
            parts.append("*")
        parts.append(parameter.name + default)
        if kind is Parameter.POSITIONAL_ONLY and kinds[place + 1 : place + 2] != [kind]:
            parts.append("/")
    return ", ".join(parts)


def rebound(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments by place, of which those that are given by name as well are replaced."""
    if not args:
        return args, dict(kwargs)
    try:
        bound = inspect.signature(function).bind_partial(*args)
    except (TypeError, ValueError):  # it does not tell, or they do not fit: the next run will say so
        return args, dict(kwargs)
    given = dict(kwargs)
    for name in kwargs:
        if (
            name in bound.arguments
            and bound.signature.parameters[name].kind is Parameter.POSITIONAL_OR_KEYWORD
        ):
            bound.arguments[name] = given.pop(name)
    return bound.args, {**bound.kwargs, **given}


def positional_names(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that may be given by place, in order."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
