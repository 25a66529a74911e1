"""How many messages to take at once: a decision from measured run times, and nothing else.

Short tasks come many at a time, so that one round trip serves many; a task that runs for 100 ms or more is
taken one for each free slot, so that nothing waits behind it. Where both come mixed:

- a task whose name is known for long runs begins only after what waits behind it was given back (`is_long`);
- runs that were long although nobody expected it make batches smaller, until so few of the short ones wait behind one
  that the 99th percentile of their waiting does not show it (`size`);
- batches begin with one message and grow twofold, and shrink to what was used when the rest was given back (`cut`).

Large messages come few at a time: what waits in a child costs little memory, however long the queue is.
"""

from __future__ import annotations

from typing import Final

#: A batch should keep a slot busy for about this long (seconds). What still waits then has waited long enough.
TARGET: Final = 0.05
#: A task that runs this long (seconds) is never taken before its slot is free.
LONG: Final = 0.1
#: The largest batch: beyond it the round trip does not matter any more.
LARGEST: Final = 256
#: The largest batch in bytes, as far as the sizes of the messages before foretell it.
HEAVIEST: Final = 1024 * 1024
#: At most so large a part of all short tasks may find itself behind a long one in its batch.
BEHIND: Final = 0.005
#: How much a new run time weighs against the ones before.
_WEIGHT: Final = 0.2
#: The same for whether a run was long against expectation: that is rare, and is remembered longer.
_SURPRISE_WEIGHT: Final = 1 / 256
#: A single run that counts as more than this (seconds) would drown out what the others say.
_MOST: Final = 2 * LONG
#: How much of the largest message's size is remembered from take to take.
_MEMORY: Final = 0.9


def size(mean: float | None, surprises: float, ceiling: int) -> int:
    """How many messages to take for each free slot; at least 1.

    `mean`: seconds that recent runs took, None before the first. `surprises`: the share of runs that were long
    although their name was not known for that. `ceiling`: no more than this.
    """
    if mean is None or mean >= LONG:
        return 1
    number = min(ceiling, int(TARGET / max(mean, 1e-6)))
    if surprises:
        # In a batch of n, (n - 1) / 2 are in front of each on average.
        number = int(min(number, 1 + 2 * BEHIND / surprises))
    return max(1, number)


class BatchSize:
    """Remembers run times (seconds) by task name. Written by slots, read by the consumer: a lost update is harmless."""

    def __init__(self, slots: int, multiplier: int | None = None) -> None:
        """`multiplier`: `worker_prefetch_multiplier` where that is a number; None finds the size by itself."""
        self._slots = slots
        self._multiplier = multiplier
        self._mean: float | None = None
        self._means: dict[str, float] = {}
        self._surprises = 0.0
        self._ceiling = 1
        self._bytes = 1.0

    def observe(self, task: str, runtime: float) -> None:
        """A run of that task took `runtime` seconds."""
        is_surprise = runtime >= LONG and not self.is_long(task)
        self._surprises += (is_surprise - self._surprises) * _SURPRISE_WEIGHT
        runtime = min(runtime, _MOST)
        known = self._means.get(task)
        self._means[task] = runtime if known is None else known + (runtime - known) * _WEIGHT
        mean = self._mean
        self._mean = runtime if mean is None else mean + (runtime - mean) * _WEIGHT

    def is_short(self, task: str, limit: float = 0.01) -> bool:
        """Whether a run of that task is expected to take less than `limit` seconds."""
        return self._means.get(task, LONG) < limit

    def is_long(self, task: str) -> bool:
        """Whether a run of that task is known to take so long that nothing should wait behind it."""
        return self._means.get(task, 0.0) >= LONG

    @property
    def ahead(self) -> int:
        """How many messages this process holds at most, as far as is known now: those that run among them."""
        if self._multiplier is not None:
            return max(self._slots, self._slots * self._multiplier or LARGEST)
        each = size(self._mean, self._surprises, self._ceiling)
        return max(self._slots, min(LARGEST, int(HEAVIEST / self._bytes), self._slots * each))

    def limit(self, free: int) -> int:
        """How many messages to take while `free` slots are idle and nothing waits here. Batches grow with each call."""
        if not free:
            return 0
        if self._multiplier is not None:
            # 0 is no limit: as many as one round trip is good for.
            ahead = self._slots * self._multiplier or LARGEST
            return max(free, ahead - (self._slots - free))
        # The largest batch is one in all, and not for each slot: slots of one process share its interpreter.
        each = size(self._mean, self._surprises, self._ceiling)
        self._ceiling = min(LARGEST, self._ceiling * 2)
        return max(free, min(LARGEST, int(HEAVIEST / self._bytes), free * each))

    def weigh(self, largest: int) -> None:
        """Messages were taken, the largest of so many bytes."""
        self._bytes = max(1.0, largest, self._bytes * _MEMORY)

    def cut(self, used: int) -> None:
        """The last batch was given back but for `used` messages: the next one is not to be much larger."""
        self._ceiling = max(1, min(LARGEST, 2 * used // self._slots))
