"""The broker on Redis 6.2 and later, and Valkey. Every key and every script is described in `redis.lua`.

A waiting message is one list entry: its bytes. Whoever waits for work stands in a set beside the queue; a send
takes one name out of it and publishes to that one, so that a thousand idle consumers cost a send nothing. The
server's own clock decides about leases and due times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock, message
from celeriac.brokers import redis_revoking
from celeriac.brokers.contract import (
    MOST_BANS,
    Casualty,
    DeadLetter,
    Outgoing,
    QueueStats,
    Revocation,
)
from celeriac.brokers.pruning import Pruned
from celeriac.brokers.redis_consumer import RedisConsumer
from celeriac.brokers.redis_keys import SCRIPTS, Keyspace, delay_text
from celeriac.brokers.redis_listener import RedisListener
from celeriac.drivers.redis import Address, Pool, Reply, ServerError, broker_errors
from celeriac.exceptions import BrokerUnavailable
from celeriac.urls import Url

#: Messages in one call of the bulk script: long enough to be fast, short enough not to hold up the server.
_BULK: Final = 1000
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05


#: What one call of a script sends: its name, the queue, the messages.
_Part = tuple[str, str, Sequence[Outgoing]]


class RedisBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = Pool(self._address)
        self._keys = Keyspace(self._address)
        self._numbers = itertools.count(1)

    @property
    def place(self) -> str:
        return self._address.place

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        parts = _parts(batch)
        doubts: list[Any] = []
        is_first = True
        while parts:
            try:
                with broker_errors(self.place):
                    self._send_parts(parts, doubts, deadline)
            except BrokerUnavailable as exc:
                if clock.monotonic() + _RETRY_PAUSE >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if not is_first:
                    clock.sleep(_RETRY_PAUSE)
                is_first = False

    def _send_parts(self, parts: list[_Part], doubts: list[Any], deadline: float) -> None:
        """Send parts, and take each away that the server has answered for.

        `doubts`: connection and number of each call for the first part that was not answered; the server knows
        by them whether it has come.
        """
        connection = self._pool.acquire(deadline)
        try:
            connection.set_timeout(deadline - clock.monotonic())
            while parts:
                script, queue, batch = parts[0]
                self._keys.list_queues(connection, (queue,))
                marks = [connection.name, next(self._numbers), *doubts]
                doubts[:] = marks
                stored = (
                    (batch[0].priority, *(one.data for one in batch))
                    if script == "send_bulk"
                    else _stored(batch)
                )
                connection.script(SCRIPTS[script], self._keys.base(queue), len(marks), *marks, *stored)
                doubts.clear()
                del parts[0]
        except ServerError:
            del doubts[:2]
            self._pool.release(connection)
            raise
        except BaseException:
            self._pool.discard(connection)
            raise
        self._pool.release(connection)

    # -- consuming ----------------------------------------------------------------------------------------

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> RedisConsumer:
        return RedisConsumer(self._address, queues, owner, lease)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        lost: set[str] = set()
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            for queue in queues:
                arguments = (int(lease * 1000), max_deliveries, *owners)
                reply = connection.script(SCRIPTS["renew"], self._keys.base(queue), *arguments)
                lost.update(owner.decode() for owner in reply)
        return [owner for owner in owners if owner in lost]

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        arguments: list[Any] = [owner, max_deliveries, len(casualties)]
        for key, casualty in casualties.items():
            arguments += (key, msgspec.json.encode(casualty))
        for key, verdict in verdicts.items():
            arguments += (key, verdict)
        return sum(self._run("surrender", queue, *arguments) for queue in queues)

    # -- revoking and telling -----------------------------------------------------------------------------

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        return redis_revoking.revoke(self._run, queue, revocations, keep)

    def revoked(self, queue: str) -> list[Revocation]:
        return redis_revoking.revoked(self._run, queue)

    def ban(self, ban: bytes, keep: float) -> None:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            connection.script(SCRIPTS["ban"], self._keys.bans, int(keep * 1000), ban, MOST_BANS)

    def bans(self) -> list[bytes]:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return list(connection.script(SCRIPTS["bans"], self._keys.bans))

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        return redis_revoking.find(self._run, queue, part)

    def notify(self, name: str, data: bytes) -> int:
        return int(self._call("PUBLISH", f"{self._keys.prefix}control:{name}", data))

    def listen(self, names: Sequence[str]) -> RedisListener:
        return RedisListener(self._address, names)

    # -- looking and tending ------------------------------------------------------------------------------

    def _run(self, script: str, queue: str, *arguments: Any) -> Reply:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return connection.script(SCRIPTS[script], self._keys.base(queue), *arguments)

    def _call(self, *command: Any) -> Reply:
        with broker_errors(self.place), self._pool.connection(self._address.timeout) as connection:
            return connection.call(*command)

    def queues(self) -> list[str]:
        return sorted(name.decode() for name in self._call("SMEMBERS", self._keys.queues))

    def stats(self, queue: str) -> QueueStats:
        ready, delayed, running, dead, paused, evicted, *heads = self._run("stats", queue)
        ages = [at for head in heads if (at := message.created_at(head[message.KEY])) is not None]
        oldest_at = min(ages, default=None)
        return QueueStats(queue, ready, delayed, running, dead, oldest_at, bool(paused), evicted)

    def purge(self, queue: str) -> int:
        return int(self._run("purge", queue))

    def pause(self, queue: str) -> None:
        self._call("SET", self._keys.base(queue) + ":p", 1)

    def resume(self, queue: str) -> None:
        self._run("resume", queue)

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        page = self._run("dead", queue, after or b"", limit)
        return [_dead_letter(queue, page[i], page[i + 1]) for i in range(0, len(page), 2) if page[i + 1]]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        value = self._call("HGET", self._keys.base(queue) + ":y", key)
        return _dead_letter(queue, key, value) if value is not None else None

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("replay", queue, self._keys.results, *part) for part in parts)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("drop", queue, *part) for part in parts)

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        limits = ("" if keep is None else keep, "" if lifetime is None else int(lifetime * 1000))
        expired, surplus, oldest, more = self._run("prune_dead", queue, *limits, limit)
        return Pruned(expired, surplus, bytes(oldest), bool(more))

    def close(self) -> None:
        self._pool.close()


def _parts(batch: Sequence[Outgoing]) -> list[_Part]:
    """Runs of ready messages of one queue and priority go in bulk, the rest one triple each."""
    if len(batch) == 1:
        return [("send", batch[0].queue, batch)]
    groups: dict[tuple[str, str, int], list[Outgoing]] = {}
    for one in batch:
        key = ("send_bulk", one.queue, one.priority) if one.due_at is None else ("send", one.queue, 0)
        groups.setdefault(key, []).append(one)
    return [
        (script, queue, group[start : start + _BULK])
        for (script, queue, _), group in groups.items()
        for start in range(0, len(group), _BULK)
    ]


def _stored(batch: Sequence[Outgoing]) -> list[Any]:
    """What the send script needs to store these messages."""
    return [word for one in batch for word in (one.priority, delay_text(one.due_at), one.data)]


class _Header(msgspec.Struct):
    """What the bury script writes of a dead letter."""

    reason: str
    detail: str
    at: float


_read_header: Final = msgspec.json.Decoder(_Header).decode
_read_casualties: Final = msgspec.json.Decoder(list[Casualty]).decode


def _dead_letter(queue: str, key: bytes, value: bytes) -> DeadLetter:
    first, casualties, data = value[1:].split(b"\n", 2)
    header = _read_header(first.decode(errors="replace"))
    return DeadLetter(
        queue=queue,
        key=bytes(key),
        data=data,
        reason=header.reason,
        detail=header.detail,
        died_at=header.at,
        casualties=_read_casualties(casualties.decode(errors="replace")),
    )
