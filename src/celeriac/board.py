"""The memory that each child of a worker shares with its supervisor: what runs in which slot, and counts.

So a run costs no message, and a stuck child can still be looked at. The supervisor reads this module too, so it stays
cheap to import.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from itertools import count
from typing import Final

import msgspec

_HEADER: Final = struct.Struct("=qqqddddd")
_COUNTS: Final = struct.Struct("=qq")
_MEMORY_AT: Final = _COUNTS.size
_BEAT_AT: Final = _COUNTS.size + 8
_ROUND_AT: Final = _BEAT_AT + 8
_AWAY_AT: Final = _ROUND_AT + 8
_NUMBER: Final = struct.Struct("=q")
_FLOAT: Final = struct.Struct("=d")
# The run's number stands first and last, and a record is written from front to back: a reader that sees two
# equal numbers has seen one whole run.
_SLOT: Final = struct.Struct("=Qdd16s64pddQ")
_STARTED_AT: Final = _SLOT.size - 16
_FIRST_SLOT: Final = 64
NAME_SIZE: Final = 63


class RunSnapshot(msgspec.Struct, frozen=True, gc=False):
    """One run as the supervisor sees it. `sequence` is new for each run of the child.

    Times are `clock.monotonic`.
    `soft_at` and `hard_at` are 0.0 where the supervisor has nothing to do at that limit. `net`: how much later than the
    hard limit `hard_at` is.
    """

    slot: int
    sequence: int
    key: bytes
    name: str
    started: float
    soft_at: float
    hard_at: float
    net: float = 0.0

    @property
    def limit(self) -> float:
        """The hard limit of the run, in seconds."""
        return self.hard_at - self.started - self.net


class Lack(IntEnum):
    """What a child is kept from."""

    TAKING = 0
    SETTLING = 1
    #: Storing results, where they are kept in another place than messages.
    STORING = 2


class ChildSnapshot(msgspec.Struct, frozen=True):
    """A child's board at a moment. `memory` in KiB and the times (monotonic) are 0 until the child says.

    `beat_at` is its second thread's, `round_at` its main thread's. `away_since`, `store_away_since`: since when the
    broker, or the result store, has kept it from going on; 0.0: it does not.
    """

    done: int
    failed: int
    memory: int
    beat_at: float
    round_at: float
    away_since: float
    store_away_since: float
    runs: tuple[RunSnapshot, ...]


class ChildBoard:
    """The memory that one child shares with the supervisor: what runs in which slot since when, and counts.

    Written by the child only. Different slots may be written from different threads; every other value from one
    thread at a time.
    """

    def __init__(self, fd: int, slots: int) -> None:
        """Map a board that was made for that many slots. The descriptor may be closed afterwards."""
        self.slots = slots
        #: The slot behind the last: for what no slot does and the process may die of, the import of a task's module.
        self.aside = slots
        #: How long (seconds) after a hard limit the supervisor is to act for this child: where it is the safety net.
        self.net = 0.0
        self._map = mmap.mmap(fd, board_size(slots))
        self._sequence = count(1)
        self._done = 0
        self._failed = 0

    def begin(
        self, slot: int, key: bytes, name: bytes, started: float, soft_at: float, hard_at: float
    ) -> None:
        """A run starts in a slot. Times are `clock.monotonic`; 0.0 is a limit that is kept elsewhere, or none.

        `soft_at`: the supervisor sends SIGUSR1. `hard_at`: it kills the process, and the run comes back
        with the verdict `time_limit:<seconds>`. `name` is cut at 63 bytes.
        """
        number = next(self._sequence)
        _SLOT.pack_into(
            self._map, _FIRST_SLOT + slot * _SLOT.size,
            number, soft_at, hard_at and hard_at + self.net, key, name, self.net, started, number,
        )  # fmt: skip

    def end(self, slot: int) -> None:
        """Nothing runs in the slot any more: what was there no longer counts as started."""
        _FLOAT.pack_into(self._map, _FIRST_SLOT + slot * _SLOT.size + _STARTED_AT, 0.0)

    def count(self, done: int, failed: int) -> None:
        """So many more runs have ended, and so many of them failed."""
        self._done += done
        self._failed += failed
        _COUNTS.pack_into(self._map, 0, self._done, self._failed)

    def beat(self, now: float) -> None:
        """The child's second thread has come round at that time (monotonic)."""
        _FLOAT.pack_into(self._map, _BEAT_AT, now)

    def come_round(self, now: float) -> None:
        """The child's main thread takes messages, or waits for what it may wait for, at that time (monotonic)."""
        _FLOAT.pack_into(self._map, _ROUND_AT, now)

    def lack(self, lack: Lack, since: float) -> None:
        """The child has been kept from something since then (monotonic); 0.0: it is no longer."""
        _FLOAT.pack_into(self._map, _AWAY_AT + lack * _FLOAT.size, since)

    def memory(self, kib: int) -> None:
        """The child's resident memory, where the supervisor cannot see it itself."""
        _NUMBER.pack_into(self._map, _MEMORY_AT, kib)

    def read(self) -> ChildSnapshot:
        """What is on the board now. A run that starts or ends while this looks may be seen or not."""
        done, failed, memory, beat_at, round_at, take, settle, store = _HEADER.unpack_from(self._map)
        records = _SLOT.iter_unpack(self._map[_FIRST_SLOT : board_size(self.slots)])
        runs = tuple(
            RunSnapshot(slot, first, key, name.decode(errors="replace"), started, soft_at, hard_at, net)
            for slot, (first, soft_at, hard_at, key, name, net, started, last) in enumerate(records)
            if started and first == last
        )
        away = min(take, settle) or max(take, settle)
        return ChildSnapshot(done, failed, memory, beat_at, round_at, away, store, runs)

    def close(self) -> None:
        """Unmap the memory. Idempotent."""
        self._map.close()


def board_size(slots: int) -> int:
    """Bytes of a board for that many slots, and the one aside."""
    return _FIRST_SLOT + (slots + 1) * _SLOT.size


def board_fd(slots: int) -> int:
    """A new descriptor of memory for a board, all idle. The caller closes it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("celeriac-board")
    else:
        path = f"{os.environ.get('TMPDIR', '/tmp')}/celeriac-board-{os.urandom(16).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    os.ftruncate(fd, board_size(slots))
    return fd
