"""How many messages to take at once: a decision from measured run times, and nothing else.

Short tasks come many at a time, so that one round trip serves many; a task that runs for 100 ms or more is
taken one for each free slot, so that nothing waits behind it. Pure but for what it remembers.
"""

from __future__ import annotations

from typing import Final

#: A batch should keep a slot busy for about this long (seconds).
TARGET: Final = 0.05
#: A task that runs this long (seconds) is never taken before its slot is free.
LONG: Final = 0.1
#: The largest batch: beyond it the round trip does not matter any more.
LARGEST: Final = 256
#: How much a new run time weighs against the ones before.
_WEIGHT: Final = 0.2


class BatchSize:
    """Remembers run times (seconds) by task name. Written by slots, read by the consumer: a lost update is harmless."""

    def __init__(self, slots: int, multiplier: int | None = None) -> None:
        """`multiplier`: `worker_prefetch_multiplier` where that is a number; None finds the size by itself."""
        self._slots = slots
        self._multiplier = multiplier
        self._mean: float | None = None
        self._means: dict[str, float] = {}

    def observe(self, task: str, runtime: float) -> None:
        """A run of that task took `runtime` seconds."""
        known = self._means.get(task)
        self._means[task] = runtime if known is None else known + (runtime - known) * _WEIGHT
        mean = self._mean
        self._mean = runtime if mean is None else mean + (runtime - mean) * _WEIGHT

    def is_short(self, task: str, limit: float = 0.01) -> bool:
        """Whether a run of that task is expected to take less than `limit` seconds."""
        return self._means.get(task, LONG) < limit

    def limit(self, free: int) -> int:
        """How many messages to take while `free` slots are idle and nothing waits here."""
        if self._multiplier is not None:
            return max(free, self._slots * self._multiplier - (self._slots - free)) if free else 0
        mean = self._mean
        if mean is None or mean >= LONG or free < self._slots:
            return free
        return self._slots * max(1, min(LARGEST, int(TARGET / max(mean, 1e-6))))
