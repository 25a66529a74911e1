"""The pool of one slot: runs in the child's main thread. `prefork` is this pool in many processes."""

from __future__ import annotations

from celeriac.pools.contract import Run


class SoloPool:
    """See `celeriac.pools.contract.Pool`. `submit` returns when the run has ended."""

    slots = 1

    def __init__(self, slots: int = 1) -> None:
        self._busy = False

    def free(self) -> int:
        return 0 if self._busy else 1

    def submit(self, run: Run) -> None:
        self._busy = True
        try:
            run(0)
        finally:
            self._busy = False

    def wait_free(self, timeout: float) -> bool:
        return not self._busy

    def wait_idle(self, timeout: float) -> bool:
        return not self._busy

    def interrupt(self, slot: int, error: type[BaseException] | None) -> bool:
        return False

    def can_abandon(self, slot: int) -> bool:
        return False

    def abandon(self, slot: int) -> bool:
        return False

    def strays(self) -> int:
        return 0

    def close(self) -> None:
        return None
