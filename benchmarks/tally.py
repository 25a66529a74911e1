"""What tasks of a benchmark leave behind without a round trip to a server: counts, and moments.

`Tally` counts in a memory map with one cell for each process; `Journal` appends fixed records to a file.
Both are opened from files that the environment names, in every process that runs tasks.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

_CELLS = 64
_CELL = struct.Struct("=qq")
_RECORD = struct.Struct("=qdd")


class Tally:
    """A count of finished tasks, over all processes. Each process, whatever its threads, writes its own cell."""

    def __init__(self, path: str | None = None) -> None:
        file = Path(path or os.environ["BENCH_TALLY"])
        if not file.exists():
            file.write_bytes(bytes(_CELL.size * _CELLS))
        self._path = file
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _CELL.size * _CELLS)
        self._lock = threading.Lock()
        self._pid = 0
        self._offset = 0
        self._count = 0

    def add(self) -> None:
        """One more task has finished in this process."""
        with self._lock:
            if self._pid != os.getpid():
                self._claim()
            self._count += 1
            _CELL.pack_into(self._map, self._offset, self._pid, self._count)

    def _claim(self) -> None:
        """Take a free cell, or the one of an earlier process with our id, and count on from there."""
        # An open file of our own: a lock belongs to the opened file, which forked processes share.
        with self._path.open("r+b") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            self._pid = os.getpid()
            for place in range(_CELLS):
                offset = (self._pid + place) % _CELLS * _CELL.size
                owner, count = _CELL.unpack_from(self._map, offset)
                if owner in (0, self._pid):
                    self._offset, self._count = offset, count
                    _CELL.pack_into(self._map, offset, self._pid, count)
                    return
        raise RuntimeError("more processes than cells")

    def total(self) -> int:
        """How many tasks have finished in all processes."""
        return sum(count for _, count in _CELL.iter_unpack(self._map[:]))

    def clear(self) -> None:
        """Back to nought, with every cell free: for the process that measures, while no task runs."""
        self._map[:] = bytes(_CELL.size * _CELLS)


class Entry(NamedTuple):
    """One run of a task: where, when it was sent and when it started, in seconds of the monotonic clock."""

    pid: int
    sent: float
    started: float


class Journal:
    """A file of entries: for tasks that are few, and of which each counts."""

    def __init__(self, path: str | None = None) -> None:
        self._path = Path(path or os.environ["BENCH_JOURNAL"])
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, sent: float) -> None:
        """Note that a task that was sent at that time runs now, in this process."""
        os.write(self._file, _RECORD.pack(os.getpid(), sent, time.monotonic()))

    def entries(self) -> list[Entry]:
        return [Entry(*fields) for fields in _RECORD.iter_unpack(self._path.read_bytes())]

    def __len__(self) -> int:
        return self._path.stat().st_size // _RECORD.size

    def clear(self) -> None:
        os.truncate(self._path, 0)
