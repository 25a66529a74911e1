"""Results in an SQLite file (`sqlite:///file`); where that is the broker's, a settlement is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from celeriac import clock
from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.drivers import sqlite as driver
from celeriac.drivers import sqlite_joins as joins
from celeriac.exceptions import BackendError, ResultStoreUnavailable
from celeriac.urls import Url

T = TypeVar("T")

#: Seconds that a verb waits for other processes' transactions.
PATIENCE: Final = 5.0

_QUERIES: Final = driver.load_queries(__file__)


class SQLiteResults:
    """The result store of one file. See `ResultStore` for what each verb promises."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._file = driver.SQLiteFile.of(url, options)

    @property
    def place(self) -> str:
        return self._file.place

    def put(self, records: Sequence[Record]) -> None:
        if records:
            self._write(lambda connection: self._file.put_records(connection, records))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return self._read(lambda connection: _get(connection, keys))

    def watch(self, keys: Iterable[bytes]) -> SQLiteWatch:
        return SQLiteWatch(self._file, keys)

    def forget(self, keys: Sequence[bytes]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            now = clock.now()
            rows = [
                connection.execute(_QUERIES["forget"], {"key": key, "now": now}).fetchall() for key in keys
            ]
            return sum(alive for found in rows for (alive,) in found)

        return self._write(work)

    def open_join(self, join: Join) -> None:
        self._write(lambda connection: joins.open_join(connection, join))

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        return self._write(lambda connection: joins.size_join(connection, key, size))

    def grow_join(self, key: bytes) -> int | None:
        return self._write(lambda connection: joins.grow_join(connection, key))

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        return self._write(lambda connection: joins.arrive(connection, arrivals, again=True))

    def gathered(self, key: bytes) -> list[bytes] | None:
        return self._read(lambda connection: joins.gathered(connection, key))

    def end_joins(self, keys: Sequence[bytes]) -> None:
        self._write(lambda connection: joins.end_joins(connection, keys))

    def sweep(self) -> int:
        self._write(lambda connection: joins.sweep_joins(connection, driver.SWEEP_LIMIT))
        swept = total = self._write(driver.sweep_records)
        while swept == driver.SWEEP_LIMIT:
            swept = self._write(driver.sweep_records)
            total += swept
        return total

    def close(self) -> None:
        self._file.close()

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with _errors(self._file):
            return self._file.write(work, PATIENCE)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with _errors(self._file):
            return self._file.read(work, PATIENCE)


class SQLiteWatch:
    """Keys that one caller waits for. What is new is found by serial, at no cost for the other keys."""

    def __init__(self, file: driver.SQLiteFile, keys: Iterable[bytes]) -> None:
        self._file = file
        self._keys = set(keys)
        #: The serial up to which everything has been returned; None before the first call.
        self._seen: int | None = None

    def next(self, timeout: float) -> dict[bytes, bytes]:
        deadline = clock.monotonic() + timeout
        with _errors(self._file):
            while True:
                version = self._file.version(PATIENCE)
                fresh = self._file.read(self._fresh, PATIENCE)
                remaining = deadline - clock.monotonic()
                if fresh or not self._keys or remaining <= 0:
                    return fresh
                self._file.wait(version, remaining, lambda: False)

    def discard(self, keys: Iterable[bytes]) -> None:
        self._keys.difference_update(keys)

    def _fresh(self, connection: sqlite3.Connection) -> dict[bytes, bytes]:
        if self._seen is None:
            [(last,)] = connection.execute(_QUERIES["last_serial"]).fetchall()
            new = list(self._keys)
        else:
            rows = connection.execute(_QUERIES["keys_since"], {"serial": self._seen}).fetchall()
            last = rows[-1][0] if rows else self._seen
            new = [key for _, key in rows if key in self._keys]
        found = _get(connection, new)
        self._seen = last
        return found

    def __enter__(self) -> SQLiteWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._keys.clear()


def _get(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    now = clock.now()
    rows = (connection.execute(_QUERIES["get"], {"key": key, "now": now}).fetchall() for key in keys)
    return {key: data for found in rows for key, data in found}


@contextmanager
def _errors(file: driver.SQLiteFile) -> Generator[None]:
    with driver.translated(file, ResultStoreUnavailable, BackendError):
        yield
