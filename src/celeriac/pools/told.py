"""A coroutine that can be told: an error is raised in it where it waits, or where it computes in Python code.

asyncio knows one such error only, the cancellation. Here a cancellation arrives as the error that was told, so that a
task can catch its soft time limit and clean up. Where the coroutine does not wait, the error is raised in its
thread (`PyThreadState_SetAsyncExc`), and in nobody else's code: each turn of the coroutine is marked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from celeriac import native
from celeriac.pools.telling import Error, raise_in_thread


class Told:
    """See the module, and `telling.Tellable`. `run` is for the loop; the guard is held for moments."""

    __slots__ = (
        "_coroutine", "_error", "_guard", "_has_begun", "_is_cancelled", "_is_hurled", "_loop", "_task", "_thread",
        "in_turn",
    )  # fmt: skip

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._thread = 0
        self._guard = native.allocate_lock()
        #: What was told and has not arrived; whether the task was cancelled for it.
        self._error: Error | None = None
        self._is_cancelled = False
        #: Whether something was raised in the thread during this turn.
        self._is_hurled = False
        self._has_begun = False
        self.in_turn = False

    async def run(self) -> Any:
        """The coroutine's value, as a task of the loop."""
        self._task = asyncio.current_task()
        self._thread = native.get_ident()
        return await self

    def tell(self, error: Error) -> None:
        with self._guard:
            if self.in_turn:
                kind = error if isinstance(error, type) else type(error)
                self._is_hurled = raise_in_thread(self._thread, kind)
                return
        self.tell_waiting(error)

    def tell_waiting(self, error: Error) -> None:
        self._error = error
        self._loop.call_soon_threadsafe(self._deliver)

    def forget(self) -> None:
        self._error = None

    def close(self) -> None:
        """It will not run."""
        self._coroutine.close()

    def _deliver(self) -> None:
        """Wake it, if it waits: it finds the error. Before its first turn and during one it finds it by itself."""
        if self._error is not None and self._has_begun and not self.in_turn and self._task is not None:
            self._is_cancelled = self._task.cancel()

    def _arrived(self) -> Error | None:
        error, self._error = self._error, None
        if error is not None and self._is_cancelled and self._task is not None:
            self._is_cancelled = False
            self._task.uncancel()
        return error

    def _end_turn(self) -> None:
        with self._guard:
            self.in_turn = False
            if self._is_hurled:
                self._is_hurled = False
                raise_in_thread(self._thread, None)

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        step: Any = inner.send
        given: Any = None
        while True:
            self.in_turn = self._has_begun = True
            try:
                try:
                    awaited = step(given)
                finally:
                    self._end_turn()
            except StopIteration as end:
                return end.value
            except BaseException as exc:
                # What was raised in the thread may have missed its code by a line, and hit ours.
                self._end_turn()
                if getattr(self._coroutine, "cr_frame", None) is None:
                    raise
                given, step = exc, inner.throw
                continue
            if (error := self._arrived()) is not None:
                given, step = error, inner.throw
                continue
            try:
                given, step = (yield awaited), inner.send
            except BaseException as exc:  # noqa: BLE001 - handed to the coroutine, whose it is
                given, step = exc, inner.throw
            if (error := self._arrived()) is not None:
                given, step = error, inner.throw
