"""Counting finished tasks without a round trip for each: a memory map with one cell for each process."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_CELLS = 64
_CELL = struct.Struct("=qq")


class Tally:
    """Opened from the file that `BENCH_TALLY` names. Each process writes its own cell."""

    def __init__(self, path: str | None = None) -> None:
        file = Path(path or os.environ["BENCH_TALLY"])
        if not file.exists():
            file.write_bytes(bytes(_CELL.size * _CELLS))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _CELL.size * _CELLS)
        self._pid = 0
        self._offset = 0
        self._count = 0

    def add(self) -> None:
        """One more task has finished in this process."""
        if self._pid != os.getpid():
            self._claim()
        self._count += 1
        _CELL.pack_into(self._map, self._offset, self._pid, self._count)

    def _claim(self) -> None:
        self._pid = os.getpid()
        self._count = 0
        for place in range(_CELLS):
            offset = (self._pid + place) % _CELLS * _CELL.size
            owner, count = _CELL.unpack_from(self._map, offset)
            if owner in (0, self._pid):
                self._offset, self._count = offset, count
                return
        raise RuntimeError("more processes than cells")

    def total(self) -> int:
        """How many tasks have finished in all processes."""
        return sum(count for _, count in _CELL.iter_unpack(self._map[:]))
