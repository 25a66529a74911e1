"""The result store on Redis 6.2 and later, and Valkey.

One string for each result, `<prefix>r:<key>`, with the server's own expiry. Storing publishes the record on a channel
of the same name; a watch subscribes first and reads second, so that nothing falls between. RESP3 lets
its one connection do both. Joins are hashes, described in `drivers/redis_joins.lua`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from celeriac import clock
from celeriac.brokers.contract import Arrival, Join, Outgoing, Record
from celeriac.drivers.redis import (
    Address,
    Command,
    Connection,
    Pool,
    ServerError,
    make_pool,
    read_scripts,
    store_errors,
)
from celeriac.drivers.redis_joins import opening
from celeriac.urls import Url

if TYPE_CHECKING:
    from celeriac.drivers.redis_cluster import ClusterPool

_BATCH: Final = 1000
_SCRIPTS: Final = read_scripts(f"{os.path.dirname(__file__)}/redis.lua")


class RedisResults:
    """See `celeriac.results.contract.ResultStore`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = make_pool(self._address)
        # In a cluster all are in one slot, and not in one place with the queues, which have slots of their own.
        tag = "" if self._address.cluster is None else "{records}"
        self._place = self._address.place + (" (results)" if tag else "")
        self._prefix = f"{self._address.prefix}{tag}r:".encode()
        self._joins = f"{self._address.prefix}{tag}j:".encode()

    @property
    def place(self) -> str:
        return self._place

    def put(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), _BATCH):
            commands: list[Command] = []
            for record in records[start : start + _BATCH]:
                name = self._prefix + record.key
                ttl = () if record.ttl is None else ("PX", max(1, int(record.ttl * 1000)))
                commands += (("SET", name, record.data, *ttl), ("PUBLISH", name, record.data))
            self._pipeline(commands)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            [values] = self._pipeline([("MGET", *(self._prefix + key for key in part))])
            found.update((key, value) for key, value in zip(part, values, strict=True) if value is not None)
        return found

    def watch(self, keys: Iterable[bytes]) -> RedisWatch:
        return RedisWatch(self._address, self._pool, self._prefix, keys)

    def forget(self, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH))
        commands: list[Command] = [("UNLINK", *(self._prefix + key for key in part)) for part in parts]
        return sum(self._pipeline(commands)) if commands else 0

    def open_join(self, join: Join) -> None:
        self._script("open_join", join.key, *opening(join))

    def size_join(self, key: bytes, size: int) -> list[Outgoing]:
        return _due(self._script("size_join", key, size))

    def grow_join(self, key: bytes) -> int | None:
        place = self._script("grow_join", key)
        return None if place < 0 else int(place)

    def arrive(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        return [
            due for one in arrivals for due in _due(self._script("arrive", one.join, one.place, one.data))
        ]

    def gathered(self, key: bytes) -> list[bytes] | None:
        name = self._joins + key
        [count, size] = self._pipeline([("HLEN", name), ("HGET", name, "s")])
        if not size or count - 2 < int(size):
            return None
        found: list[bytes | None] = []
        for start in range(0, int(size), _BATCH):
            places = range(start, min(start + _BATCH, int(size)))
            [values] = self._pipeline([("HMGET", name, *places)])
            found += values
        there = [data for data in found if data is not None]
        return there if len(there) == len(found) else None

    def end_joins(self, keys: Sequence[bytes]) -> None:
        if keys:
            self._pipeline([("UNLINK", *(self._joins + key for key in keys))])

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        self._pool.close()

    def _script(self, name: str, key: bytes, *arguments: Any) -> Any:
        name_of_join = self._joins + key

        def work(connection: Connection) -> Any:
            return connection.script(_SCRIPTS[name], name_of_join, *arguments)

        with store_errors(self.place):
            return self._pool.run(name_of_join, self._address.timeout, work)

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        def work(connection: Connection) -> list[Any]:
            replies = connection.pipeline(commands)
            for reply in replies:
                if isinstance(reply, ServerError):
                    raise reply
            return replies

        with store_errors(self.place):
            return self._pool.run(self._prefix, self._address.timeout, work)


def _due(reply: Any) -> list[Outgoing]:
    """The message that a script of joins returned, if it did."""
    if not reply:
        return []
    queue, priority, delay, data = reply
    due_at = None if delay in (b"", "") else clock.now() + int(delay) / 1000
    return [Outgoing(queue.decode(), data, int(priority), due_at)]


class RedisWatch:
    """See `celeriac.results.contract.Watch`. Owned by one thread. After a lost connection it reads everything anew.

    Its connection is one that the pool has no use for: who looks first and watches then has one in all.
    """

    def __init__(
        self, address: Address, pool: Pool | ClusterPool, prefix: bytes, keys: Iterable[bytes]
    ) -> None:
        self._address = address
        self._pool = pool
        self._prefix = prefix
        self._keys = set(keys)
        self._fresh: dict[bytes, bytes] = {}
        self._connection: Connection | None = None

    def next(self, timeout: float) -> dict[bytes, bytes]:
        deadline = clock.monotonic() + timeout
        with store_errors(self._address.place):
            try:
                connection = self._connection or self._connect()
                while True:
                    connection.gather()
                    self._note_pushes(connection)
                    remaining = deadline - clock.monotonic()
                    if self._fresh or remaining <= 0 or not self._keys:
                        break
                    connection.wait_readable(remaining)
            except BaseException:
                self._disconnect()
                raise
        fresh, self._fresh = self._fresh, {}
        return fresh

    def discard(self, keys: Iterable[bytes]) -> None:
        gone = self._keys.intersection(keys)
        self._keys -= gone
        for key in gone:
            self._fresh.pop(key, None)
        if self._connection is None or not gone:
            return
        with store_errors(self._address.place):
            try:
                self._connection.unsubscribe(*(self._prefix + key for key in gone))
            except BaseException:
                self._disconnect()
                raise

    def __enter__(self) -> RedisWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._disconnect()

    def _connect(self) -> Connection:
        timeout = self._address.timeout
        connection = self._pool.at(self._prefix, timeout).take_idle()
        if connection is None:
            connection = Connection(self._address.at(self._prefix, timeout), timeout)
        self._connection = connection
        connection.set_timeout(timeout)
        keys = list(self._keys)
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            names = [self._prefix + key for key in part]
            connection.subscribe(*names)
            self._note_pushes(connection)
            values = connection.call("MGET", *names)
            self._fresh.update((k, value) for k, value in zip(part, values, strict=True) if value is not None)
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note_pushes(self, connection: Connection) -> None:
        while connection.pushes:
            push = connection.pushes.popleft()
            if push[0] == b"message" and (key := push[1][len(self._prefix) :]) in self._keys:
                self._fresh[key] = push[2]
