"""Results in the memory of this process (`memory://name`): for tests and for running tasks in place."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celeriac import clock
from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.drivers.memory import BY_SIZE, Space
from celeriac.exceptions import BackendError
from celeriac.urls import Url


class MemoryResults:
    """The result store of one space. See `ResultStore` for what each verb promises."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._space = Space.open(url)

    @property
    def place(self) -> str:
        return self._space.place

    def put(self, records: Sequence[Record]) -> None:
        with self._entered() as space:
            space.put(records)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        with self._entered() as space:
            return space.alive(keys)

    def watch(self, keys: Iterable[bytes]) -> MemoryWatch:
        self._space.check_process(BackendError)
        return MemoryWatch(self._space, keys)

    def forget(self, keys: Sequence[bytes]) -> int:
        with self._entered() as space:
            there = space.alive(keys)
            for key in keys:
                space.records.pop(key, None)
            return len(there)

    def open_join(self, join: Join) -> None:
        with self._entered() as space:
            space.open_join(join)

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        with self._entered() as space:
            found = space.joins.get(key)
            if found is None:
                return []
            found.size = size
            if len(found.results) != size or found.completed_by not in (None, BY_SIZE):
                return []
            found.completed_by = BY_SIZE
            return [found.due()]

    def grow_join(self, key: bytes) -> int | None:
        with self._entered() as space:
            found = space.joins.get(key)
            if found is None or found.size is None or found.completed_by is not None:
                return None
            found.size += 1
            return found.size - 1

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        with self._entered() as space:
            return space.arrive(arrivals, again=True)

    def gathered(self, key: bytes) -> list[bytes] | None:
        with self._entered() as space:
            found = space.joins.get(key)
            if found is None or len(found.results) != found.size:
                return None
            return [found.results[place] for place in range(len(found.results))]

    def end_joins(self, keys: Sequence[bytes]) -> None:
        with self._entered() as space:
            for key in keys:
                space.joins.pop(key, None)

    def sweep(self) -> int:
        with self._entered() as space:
            return space.sweep()

    def close(self) -> None:
        """Nothing to close: the space stays for whoever opens the same name again."""

    @contextmanager
    def _entered(self) -> Generator[Space]:
        self._space.check_process(BackendError)
        with self._space.changed:
            yield self._space


class MemoryWatch:
    """Keys that one caller waits for."""

    def __init__(self, space: Space, keys: Iterable[bytes]) -> None:
        self._space = space
        self._keys = set(keys)
        #: The serial up to which everything has been returned; None before the first call.
        self._seen: int | None = None

    def next(self, timeout: float) -> dict[bytes, bytes]:
        space = self._space
        deadline = clock.monotonic() + timeout
        with space.changed:
            while True:
                fresh = self._fresh()
                remaining = deadline - clock.monotonic()
                if fresh or not self._keys or remaining <= 0 or not space.changed.wait(remaining):
                    return fresh or self._fresh()

    def discard(self, keys: Iterable[bytes]) -> None:
        self._keys.difference_update(keys)

    def _fresh(self) -> dict[bytes, bytes]:
        space = self._space
        new: Iterable[bytes] = self._keys
        if self._seen is not None:
            new = [key for key in space.keys_since(self._seen) if key in self._keys]
        self._seen = space.last_serial
        return space.alive(new)

    def __enter__(self) -> MemoryWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._keys.clear()
