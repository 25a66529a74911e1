"""Results in a PostgreSQL database (`postgresql://`); where that is the broker's, a settlement is one transaction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.drivers.postgres import Address, Connection, Pool, ServerError, store_errors
from celeriac.drivers.postgres_joins import OPENING, opening
from celeriac.drivers.postgres_schema import connected, upgrade
from celeriac.drivers.postgres_wire import Verb, verb
from celeriac.urls import Url

_PUT: Final = verb("put", "byteses byteses floats")
_GET: Final = verb("get", "byteses", "bytes bytes")
_LOOK: Final = verb("look", "byteses bigs", "bytes bytes big")
_WATCH: Final = verb("watch", "text float")
_UNWATCH: Final = verb("unwatch", "text")
_HEAR: Final = verb("hear", "text texts")
_FORGET: Final = verb("forget", "byteses", "big")
_SWEEP: Final = verb("sweep", "int", "big")
_OPEN: Final = verb("open_joins", OPENING)
_SIZE: Final = verb("size_join", "bytes int", "text int float bytes")
_GROW: Final = verb("grow_join", "bytes", "int")
_ARRIVE: Final = verb("arrive", "byteses ints byteses bool", "text int float bytes big")
_GATHERED: Final = verb("gathered", "bytes", "bytes")
_IS_COMPLETE: Final = verb("is_complete", "bytes", "bool")
_END: Final = verb("end_joins", "byteses")
_SWEEP_JOINS: Final = verb("sweep_joins", "int", "big")

#: Expired records that one transaction deletes.
_SWEPT_AT_ONCE: Final = 2_000
#: Seconds between two looks of who waits without being told: soon at first, because somebody who was storing may not
#: have seen that we wait, then seldom; and where no notifications come.
_LOOKS: Final = (0.02, 0.1, 0.5, 2.0, 5.0)
_POLLS: Final = (0.02, 0.05, 0.1, 0.25, 0.5)


class PostgresResults:
    """See `celeriac.results.contract.ResultStore`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = Pool(self._address, connected)

    @property
    def place(self) -> str:
        return self._address.place

    def put(self, records: Sequence[Record]) -> None:
        if records:
            self._call(_PUT, [r.key for r in records], [r.data for r in records], [r.ttl for r in records])

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return dict(self._call(_GET, keys)) if keys else {}

    def watch(self, keys: Iterable[bytes]) -> PostgresWatch:
        return PostgresWatch(self._address, self._pool, keys)

    def forget(self, keys: Sequence[bytes]) -> int:
        return int(self._call(_FORGET, keys)[0][0]) if keys else 0

    def open_join(self, join: Join) -> None:
        self._call(_OPEN, *opening([join]))

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        return [_due(*row) for row in self._call(_SIZE, key, size)]

    def grow_join(self, key: bytes) -> int | None:
        rows = self._call(_GROW, key)
        return rows[0][0] if rows else None

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        columns = ([a.join for a in arrivals], [a.place for a in arrivals], [a.data for a in arrivals])
        rows = self._call(_ARRIVE, *columns, True)
        return [_due(*row[:4]) for row in sorted(rows, key=lambda row: int(row[4]))]

    def gathered(self, key: bytes) -> list[bytes] | None:
        found = [data for (data,) in self._call(_GATHERED, key)]
        return found if found or self._call(_IS_COMPLETE, key)[0][0] else None

    def end_joins(self, keys: Sequence[bytes]) -> None:
        if keys:
            self._call(_END, keys)

    def sweep(self) -> int:
        self._call(_SWEEP_JOINS, _SWEPT_AT_ONCE)
        total = 0
        while count := self._call(_SWEEP, _SWEPT_AT_ONCE)[0][0]:
            total += count
        return total

    def migrate(self, dry_run: bool) -> list[str]:
        """See `celeriac.brokers.abilities.Migrates`."""
        with store_errors(self.place):
            return upgrade(self._address, dry_run)

    def close(self) -> None:
        self._pool.close()

    def _call(self, verb: Verb, *arguments: Any) -> list[tuple[Any, ...]]:
        with store_errors(self.place):
            return self._pool.call(verb, *arguments)


def _due(queue: str, priority: int, delay: float | None, data: bytes) -> Outgoing:
    """The message of a join, due by this machine's clock."""
    return Outgoing(queue, data, priority, None if delay is None else clock.now() + delay)


class PostgresWatch:
    """See `celeriac.results.contract.Watch`. Owned by one thread. After a lost connection it reads everything anew.

    Its connection is one that the pool has no use for. A notification names keys; only those are read.
    """

    def __init__(self, address: Address, pool: Pool, keys: Iterable[bytes]) -> None:
        self._address = address
        self._pool = pool
        #: By key, the version that was returned last; 0: none was.
        self._seen = dict.fromkeys(keys, 0)
        self._name = os.urandom(8).hex()
        self._connection: Connection | None = None
        self._looks = 0
        self._look_at = 0.0

    def next(self, timeout: float) -> dict[bytes, bytes]:
        deadline = clock.monotonic() + timeout
        with store_errors(self._address.place):
            try:
                while True:
                    fresh = self._fresh()
                    remaining = deadline - clock.monotonic()
                    if fresh or remaining <= 0 or not self._seen:
                        return fresh
                    assert self._connection is not None
                    self._connection.wait_readable(min(remaining, self._look_at - clock.monotonic()))
            except BaseException:
                self._disconnect()
                raise

    def _fresh(self) -> dict[bytes, bytes]:
        """What has come: of the keys that were told, or of all when it is time."""
        connection = self._connection or self._connect()
        told: set[bytes] = set()
        connection.gather()
        while connection.pushes:
            _, text = connection.pushes.popleft()
            told.update(key for word in text.split() if (key := bytes.fromhex(word)) in self._seen)
        now = clock.monotonic()
        if now < self._look_at:
            return self._read(connection, list(told))
        pauses = _LOOKS if connection.hears else _POLLS
        self._look_at = now + pauses[min(self._looks, len(pauses) - 1)]
        self._looks += 1
        if connection.hears:
            connection.call(_WATCH, self._name, 3 * pauses[-1])
        return self._read(connection, list(self._seen))

    def _read(self, connection: Connection, keys: list[bytes]) -> dict[bytes, bytes]:
        if not keys:
            return {}
        rows = connection.call(_LOOK, keys, [self._seen[key] for key in keys])
        self._seen.update((key, version) for key, _, version in rows)
        return {key: data for key, data, _ in rows}

    def discard(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._seen.pop(key, None)

    def __enter__(self) -> PostgresWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        connection = self._connection
        if connection is not None:
            # Else we are told for some seconds more, and nobody hears it.
            with contextlib.suppress(OSError, ServerError):
                if connection.hears:
                    connection.call(_UNWATCH, self._name)
        self._disconnect()

    def _connect(self) -> Connection:
        connection = self._pool.take_idle() or connected(self._address, self._address.timeout)
        self._connection = connection
        connection.set_timeout(self._address.timeout)
        if connection.hears:
            connection.call(_HEAR, "", ["results"])
        self._looks, self._look_at = 0, 0.0
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
