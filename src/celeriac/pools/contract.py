"""What a pool promises: to run callables in slots, and nothing else.

A pool knows nothing of messages or tasks. It is handed a callable for each run; the callable settles its run
itself. Processes are the supervisor's business: a pool lives in one child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Run = Callable[[int], None]


@runtime_checkable
class Pool(Protocol):
    """Runs callables in a fixed number of slots, numbered from 0. Called from the child's main thread only."""

    @property
    def slots(self) -> int: ...

    def free(self) -> int:
        """How many slots are idle now."""
        ...

    def submit(self, run: Run) -> None:
        """Run the callable in an idle slot, whose number it is given. May run it before it returns (solo).

        There must be a free slot. The callable does not raise.
        """
        ...

    def wait_free(self, timeout: float) -> bool:
        """Block until a slot is idle, at most `timeout` seconds."""
        ...

    def wait_idle(self, timeout: float) -> bool:
        """Block until every slot is idle, at most `timeout` seconds. False: some are still busy."""
        ...

    def interrupt(self, slot: int, error: type[BaseException] | None) -> bool:
        """Raise `error` in the run of a slot as soon as its code lets that happen; None takes back one that has not
        been raised yet. False: it cannot be done here."""
        ...

    def can_abandon(self, slot: int) -> bool:
        """Whether `abandon` would do now. Where a run holds up the loop of all, only the end of the process may end it;
        then the pool raises `RunAbandoned` in it, if its code lets that happen, and can be asked again."""
        ...

    def abandon(self, slot: int) -> bool:
        """Give up on the run in a slot and put a fresh slot in its place. False: it cannot be done here.

        Where the pool can, it ends the run, by raising `RunAbandoned` in it; else the run is left to itself.
        """
        ...

    def strays(self) -> int:
        """How many runs that were given up still go on."""
        ...

    def close(self) -> None:
        """Idempotent; does not wait for abandoned runs."""
        ...


class AwaitedRun(Protocol):
    """A run whose user code is a coroutine. Its three parts run one after the other, in one context."""

    def open(self, slot: int) -> None:
        """Called in the main thread, before it; may block."""
        ...

    async def work(self) -> None:
        """Awaited on the loop. Raises nothing but `RunAbandoned`; then `close` is not called."""
        ...

    def close(self, slot: int) -> None:
        """Called behind it, in a thread that the pool has for this; may block."""
        ...


@runtime_checkable
class AwaitingPool(Pool, Protocol):
    """A pool with an event loop, on which it awaits runs; `submit` runs the others in threads."""

    def submit_awaited(self, run: AwaitedRun) -> None:
        """Await the run in an idle slot. There must be one."""
        ...

    def ending(self) -> int:
        """How many runs wait to be closed, their code having ended."""
        ...


#: The slot that is to blame, None for what is no run; how long (seconds) the loop has waited; where it is held up.
Blocked = Callable[[int | None, float, str], None]


@runtime_checkable
class WatchedPool(Pool, Protocol):
    """A pool whose runs take turns on one loop: one that does not wait keeps all others waiting."""

    def watch(self, blocked: Blocked) -> None:
        """From now on call `blocked` when a turn takes longer than a second, while it goes on, from another thread."""
        ...


@runtime_checkable
class LoopPool(WatchedPool, Protocol):
    """A pool whose loop is in the main thread, where signals reach its runs."""

    def current(self) -> int | None:
        """The slot in which the caller runs; None outside of runs. May be called from a signal's handler."""
        ...
