"""Notices in an SQLite file: rows that live for a minute, read by whoever has not seen them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from typing import Final

from celeriac import clock
from celeriac.brokers.sqlite_ledger import PATIENCE, QUERIES, Ledger, write
from celeriac.drivers.sqlite import SQLiteFile, translated
from celeriac.exceptions import BrokerRefused, BrokerUnavailable

#: Seconds for which a notice can be heard.
LIFE: Final = 60.0
#: Who has not looked for as long as that, but for so many seconds, may have missed one.
_MARGIN: Final = 5.0
#: Seconds between two looks. An idle one asks whether anybody has committed, which costs microseconds.
_BETWEEN_LOOKS: Final = 0.1


def notify(file: SQLiteFile, name: str, data: bytes) -> None:
    def work(ledger: Ledger) -> None:
        ledger.run("forget_notices", ledger.now - LIFE, ledger.now + LIFE)
        ledger.run("tell", name, data, ledger.now)

    write(file, work)


class SQLiteListener:
    """See `celeriac.brokers.contract.Listener`."""

    def __init__(self, file: SQLiteFile, names: Sequence[str]) -> None:
        self._file = file
        self._names = frozenset(names)
        self._alarm = threading.Event()
        self._is_closed = False
        self._looked_at = clock.monotonic()
        #: The last notice that was there when we looked, and the file's version at that moment.
        self._seen = 0
        self._version: tuple[int, ...] = ()
        #: Why the first look failed; the first `wait` says so.
        self._failure: BrokerUnavailable | BrokerRefused | None = None
        try:
            self._start()
        except (BrokerUnavailable, BrokerRefused) as exc:
            self._failure = exc

    def wait(self, timeout: float) -> list[tuple[str, bytes]]:
        deadline = clock.monotonic() + timeout
        failure, self._failure = self._failure, None
        if failure is not None:
            self._seen = -1
            raise failure
        while not self._is_closed:
            if heard := self._look():
                return heard
            remaining = deadline - clock.monotonic()
            if remaining <= 0 or self._alarm.wait(min(remaining, _BETWEEN_LOOKS)):
                break
        self._alarm.clear()
        return []

    def _start(self) -> None:
        """Hear what comes from now on."""
        with translated(self._file, BrokerUnavailable, BrokerRefused):
            self._seen = self._file.read(_last_notice, PATIENCE)
        self._looked_at = clock.monotonic()

    def _look(self) -> list[tuple[str, bytes]]:
        now = clock.monotonic()
        if self._seen < 0:
            self._start()
        elif (silent := now - self._looked_at) > LIFE - _MARGIN:
            self._start()
            raise BrokerUnavailable(f"{self._file.place}: this listener has not looked for {silent:.0f} s")
        with translated(self._file, BrokerUnavailable, BrokerRefused):
            version = self._file.version(PATIENCE)
            self._looked_at = now
            if version == self._version:
                return []
            last, rows = self._file.read(self._unseen, PATIENCE)
        self._version = version
        is_new_file, self._seen = last < self._seen, last
        if is_new_file:
            raise BrokerUnavailable(f"{self._file.place}: the file was made anew")
        return [(name, data) for _, name, data in rows if name in self._names]

    def _unseen(self, connection: sqlite3.Connection) -> tuple[int, list[tuple[int, str, bytes]]]:
        rows = connection.execute(QUERIES["notices_after"], (self._seen,)).fetchall()
        return _last_notice(connection), rows

    def wake(self) -> None:
        self._alarm.set()

    def close(self) -> None:
        self._is_closed = True
        self._alarm.set()


def _last_notice(connection: sqlite3.Connection) -> int:
    [(last,)] = connection.execute(QUERIES["last_notice"]).fetchall()
    return int(last)
