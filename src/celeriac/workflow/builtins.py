"""Tasks that every application has, under Celery's names; made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from celeriac.workflow.signature import maybe_signature


def accumulate(self: Any, *args: Any, index: int | None = None, **kwargs: Any) -> Any:
    """Hands its arguments on: all, or the one at `index`."""
    return args if index is None else args[index]


def xmap(self: Any, task: Any, it: Any) -> list[Any]:
    """Calls a task with each item, one after another."""
    called = maybe_signature(task, self.app).type
    return [called(item) for item in it]


def xstarmap(self: Any, task: Any, it: Any) -> list[Any]:
    """Calls a task with each item as its arguments, one after another."""
    called = maybe_signature(task, self.app).type
    return [called(*item) for item in it]


#: Name -> function, and whether its result is kept where the application keeps none.
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "celery.accumulate": accumulate,
    "celery.map": xmap,
    "celery.starmap": xstarmap,
}
