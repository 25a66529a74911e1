"""Names of Celery's that stand for something else at every use: `current_app` and `current_task`.

Nothing inside the package imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from celeriac import context


class _Current:
    """Stands for what is current where it is used."""

    __slots__ = ("_find",)

    _find: Callable[[], Any]

    def __init__(self, find: Callable[[], Any]) -> None:
        object.__setattr__(self, "_find", find)

    def __getattr__(self, name: str) -> Any:
        value: Any = getattr(self._find(), name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._find(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._find(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self._find())

    def __eq__(self, other: object) -> bool:
        return bool(self._find() == other)

    def __hash__(self) -> int:
        return hash(self._find())

    def __repr__(self) -> str:
        return repr(self._find())

    def _get_current_object(self) -> Any:
        return self._find()


#: The application that is current where this is used.
current_app: Final[Any] = _Current(context.current_app)
#: The Task that runs where this is used; false outside a run.
current_task: Final[Any] = _Current(context.current_task)
