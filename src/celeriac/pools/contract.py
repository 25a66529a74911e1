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

    def abandon(self, slot: int) -> bool:
        """Give up on the run in a slot and put a fresh slot in its place. False: it cannot be done here."""
        ...

    def close(self) -> None:
        """Idempotent; does not wait for abandoned runs."""
        ...
