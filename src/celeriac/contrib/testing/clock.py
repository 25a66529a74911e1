"""Time that a test can move on. All of Celeriac reads it in `celeriac.clock`, so it is enough to replace it there.

Only wall time moves (eta, countdown, expiry, leases); what measures and what waits goes by the real clock.
"""

from __future__ import annotations

from typing import Self

from celeriac import clock


class MovableClock:
    """Inside the block, wall time is as far ahead as it has been moved. For the whole process."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = clock.now

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._real() + self.ahead

    def move_to(self, moment: float) -> None:
        """Make it that moment, if it is not later already."""
        self.ahead = max(self.ahead, moment - self._real())

    def __enter__(self) -> Self:
        self._real = clock.now
        clock.now = self.now
        return self

    def __exit__(self, *exc_info: object) -> None:
        clock.now = self._real
