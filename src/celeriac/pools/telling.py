"""Which coroutine a thread runs to its end on a loop of its own: whoever interrupts that thread tells the coroutine.

Knows no asyncio: it is read in processes that have none.
"""

from __future__ import annotations

import ctypes
from typing import Final, Protocol

Error = BaseException | type[BaseException]


def raise_in_thread(thread: int, error: type[BaseException] | None) -> bool:
    """Raise an error where that thread next runs Python code; None takes it back if it has not been raised yet."""
    thrown = None if error is None else ctypes.py_object(error)
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), thrown))


class Tellable(Protocol):
    """A coroutine in which errors can be raised from outside; see `told.Told`."""

    @property
    def in_turn(self) -> bool:
        """Whether its code runs now; else it waits."""
        ...

    def tell(self, error: Error) -> None:
        """Raise this in it, where it waits or where it computes in Python code. From another thread."""
        ...

    def tell_waiting(self, error: Error) -> None:
        """Raise this in it where it waits. Also from a signal's handler in the thread of its loop."""
        ...

    def forget(self) -> None:
        """Take back what was told and has not been raised yet."""
        ...


class Coroutines:
    """By thread: what it runs."""

    def __init__(self) -> None:
        self._by_thread: dict[int, Tellable] = {}

    def begin(self, thread: int, coroutine: Tellable) -> None:
        """The thread runs this coroutine, and nothing else, from here on."""
        self._by_thread[thread] = coroutine

    def end(self, thread: int) -> None:
        """It has ended."""
        self._by_thread.pop(thread, None)

    def of(self, thread: int) -> Tellable | None:
        """What the thread runs now."""
        return self._by_thread.get(thread)


#: The coroutines of this process that run outside of a pool's own loop. Written by `celeriac.loops`.
COROUTINES: Final = Coroutines()
