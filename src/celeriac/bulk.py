"""Many calls of one task with the same options: the options are worked out once, the rest is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from celeriac.async_result import AsyncResult
from celeriac.message import Message, id_of
from celeriac.producer import Call


class Pattern:
    """What the calls have in common."""

    __slots__ = ("_app", "_call", "_check", "_ignored", "_name", "_options")

    def __init__(self, call: Call, check: Callable[..., None] | None, app: Any, ignored: bool) -> None:
        self._call = call
        self._check = check
        self._app = app
        self._name = call.message.task
        self._options = call.message.options
        self._ignored = ignored if self._options.ignore_result is None else self._options.ignore_result

    def call(self, key: bytes, args: Any, kwargs: dict[str, Any], place: int, seat: Any = None) -> Call:
        """One call, at its place in the group and its seat at a join. Raises: TypeError: the arguments do not fit."""
        if self._check is not None:
            self._check(*args, **kwargs)
        call = self._call
        options = replace(self._options, group_index=place, chord=seat)
        return Call(Message(key, self._name, args, kwargs, options), call.queue, call.due_at, call.priority)

    def result(self, key: bytes) -> AsyncResult:
        """The result of one call."""
        return AsyncResult(id_of(key), None, self._name, self._app, None, self._ignored)
