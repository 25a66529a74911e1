"""Modules and functions stay short enough to be read."""

from __future__ import annotations

import ast

from tests.shape.source import Function, functions, modules, shown

LONGEST_MODULE = 500
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 7
#: What users call with all that Celery allows; the list is closed.
MANY_PARAMETERS = {
    "celeriac.app": {"__init__", "send_task"},
    "celeriac.task": {"apply", "apply_async", "retry"},
}


def parameters(function: Function) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        shown(path, function)
        for path in modules().values()
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_no_function_has_more_than_7_parameters() -> None:
    many = [
        shown(path, function)
        for name, path in modules().items()
        for function in functions(path)
        if parameters(function) > MOST_PARAMETERS and function.name not in MANY_PARAMETERS.get(name, ())
    ]
    assert many == []


def test_every_module_says_what_it_is_for() -> None:
    mute = [
        name for name, path in modules().items()
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]  # fmt: skip
    assert mute == []
