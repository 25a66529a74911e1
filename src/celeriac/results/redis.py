"""The result store on Redis 6.2 and later, and Valkey.

One string for each result, `<prefix>r:<key>`, with the server's own expiry. Storing publishes the record on a channel
of the same name; a watch subscribes first and reads second, so that nothing falls between. RESP3 lets
its one connection do both. Joins are hashes, described in `drivers/redis_joins.lua`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import JOIN_TTL, Arrival, Join, Outgoing, Record
from celeriac.drivers.redis import (
    Address,
    Command,
    Connection,
    Pool,
    ServerError,
    read_scripts,
    store_errors,
)
from celeriac.urls import Url

_BATCH: Final = 1000
_SCRIPTS: Final = read_scripts(f"{os.path.dirname(__file__)}/redis.lua")


class RedisResults:
    """See `celeriac.results.contract.ResultStore`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = Pool(self._address)
        self._prefix = self._address.prefix.encode() + b"r:"
        self._joins = self._address.prefix.encode() + b"j:"

    @property
    def place(self) -> str:
        return self._address.place

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
        sent = join.outgoing
        due = "" if sent.due_at is None else max(0, int((sent.due_at - clock.now()) * 1000))
        delay = "" if join.delay is None else int(join.delay * 1000)
        size = "" if join.size is None else join.size
        self._script(
            "open_join",
            join.key,
            size,
            sent.queue,
            sent.priority,
            due,
            delay,
            sent.data,
            int(JOIN_TTL * 1000),
        )

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
        with store_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return connection.script(_SCRIPTS[name], self._joins + key, *arguments)

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        with store_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            replies = connection.pipeline(commands)
            for reply in replies:
                if isinstance(reply, ServerError):
                    raise reply
            return replies


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

    def __init__(self, address: Address, pool: Pool, prefix: bytes, keys: Iterable[bytes]) -> None:
        self._address = address
        self._pool = pool
        self._prefix = prefix
        self._keys = set(keys)
        self._fresh: dict[bytes, bytes] = {}
        self._connection: Connection | None = None
        self._alarm_in, self._alarm_out = os.pipe()

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
                    connection.wait_readable(remaining, self._alarm_in)
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
        os.close(self._alarm_in)
        os.close(self._alarm_out)

    def _connect(self) -> Connection:
        connection = self._pool.take_idle() or Connection(self._address, self._address.timeout)
        self._connection = connection
        connection.set_timeout(self._address.timeout)
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
