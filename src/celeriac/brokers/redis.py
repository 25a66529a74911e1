"""The broker on Redis 6.2 and later, and Valkey. Every key and every script is described in `redis.lua`.

A waiting message is one list entry: its bytes. Whoever waits for work stands in a set beside the queue; a send
takes one name out of it and publishes to that one, so that a thousand idle consumers cost a send nothing. The
server's own clock decides about leases and due times.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac import clock, message
from celeriac.brokers import redis_moving, redis_revoking, room
from celeriac.brokers.abilities import Crate
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
from celeriac.brokers.redis_keys import SCRIPTS, Keyspace, channel, dead_letter
from celeriac.brokers.redis_listener import RedisListener
from celeriac.drivers.redis import Address, Connection, Reply, ServerError, broker_errors, cautions, make_pool
from celeriac.drivers.redis_joins import delay_text
from celeriac.exceptions import BrokerRefused, BrokerUnavailable, QueueFull
from celeriac.urls import Url

#: Messages in one call of the bulk script: long enough to be fast, short enough not to hold up the server.
_BULK: Final = 1000
#: Seconds that a server may need to say that replicas are late: it looks at its clock ten times a second.
_SLOW_WORD: Final = 0.2
#: What `send_limited` answers where the messages do not fit.
_FULL: Final = -1
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05


#: What one call of a script sends: its name, the queue, the messages, and the most that may wait, if that is limited.
_Part = tuple[str, str, Sequence[Outgoing], int | None]


class RedisBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = make_pool(self._address)
        self._keys = Keyspace(self._address)
        self._numbers = itertools.count(1)

    @property
    def place(self) -> str:
        return self._address.place

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        self.send_limited(batch, {}, timeout)

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        parts = _parts(batch, most)
        doubts: list[Any] = []
        is_first = True
        pause = _SLOW_WORD if self._address.replicas else _RETRY_PAUSE
        while parts:
            try:
                with broker_errors(self.place):
                    self._send_parts(parts, doubts, deadline)
            except BrokerUnavailable as exc:
                if clock.monotonic() + pause >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if not is_first:
                    clock.sleep(_RETRY_PAUSE)
                is_first = False

    def _send_parts(self, parts: list[_Part], doubts: list[Any], deadline: float) -> None:
        """Send parts, as far as they go to one server, and take each away that it has answered for.

        `doubts`: connection and number of each call for the first part that was not answered; the server knows
        by them whether it has come.
        """
        self._list_queues((part[1] for part in parts), deadline)
        pool = self._pool.at(self._keys.base(parts[0][1]), deadline - clock.monotonic())
        connection = pool.acquire(deadline)
        try:
            connection.set_timeout(deadline - clock.monotonic())
            while parts:
                script, queue, batch, most = parts[0]
                base = self._keys.base(queue)
                if self._pool.at(base, deadline - clock.monotonic()) is not pool:
                    break
                marks = [connection.name, next(self._numbers), *doubts]
                doubts[:] = marks
                stored = (
                    (batch[0].priority, *(one.data for one in batch))
                    if script == "send_bulk"
                    else [*(() if most is None else (most,)), *_stored(batch)]
                )
                reply = connection.script(SCRIPTS[script], base, len(marks), *marks, *stored)
                if reply == _FULL:
                    raise room.full(queue, most or 0)
                if self._address.replicas:
                    self._wait_for_replicas(connection, deadline)
                doubts.clear()
                del parts[0]
        except (ServerError, QueueFull):
            del doubts[:2]
            pool.release_refused(connection)
            raise
        except BaseException:
            pool.discard(connection)
            raise
        pool.release(connection)

    def _list_queues(self, names: Iterable[str], deadline: float) -> None:
        def call(*command: Any) -> Reply:
            left = deadline - clock.monotonic()
            return self._pool.run(self._keys.queues, left, lambda line: line.call(*command))

        self._keys.list_queues(call, names)

    def _wait_for_replicas(self, connection: Connection, deadline: float) -> None:
        """Until so many as are wished have what this connection has sent."""
        wanted, left = self._address.replicas, deadline - clock.monotonic()
        there = connection.call("WAIT", wanted, max(1, int((left - _SLOW_WORD) * 1000)))
        if there < wanted:
            raise BrokerUnavailable(
                f"{self.place}: {there} replicas have the message, wait_replicas is {wanted}"
            )

    # -- consuming ----------------------------------------------------------------------------------------

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> RedisConsumer:
        return RedisConsumer(self._address, queues, owner, lease)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        lost: set[str] = set()
        for queue in queues:
            reply = self._run("renew", queue, int(lease * 1000), max_deliveries, *owners)
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

    def held(self, queue: str, keys: Collection[bytes]) -> set[bytes]:
        return set(keys).intersection(self._run("held", queue))

    def ban(self, ban: bytes, keep: float) -> None:
        self._script("ban", self._keys.bans, int(keep * 1000), ban, MOST_BANS)

    def bans(self) -> list[bytes]:
        return list(self._script("bans", self._keys.bans))

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        return redis_revoking.find(self._run, queue, part)

    def notify(self, name: str, data: bytes) -> int:
        # All by one server, so that they come in order.
        heard = self._run_at(self._keys.bans, "PUBLISH", channel(self._address, name), data)
        # A node of a cluster tells all others, but knows only of those who listen at itself.
        return int(heard) if self._address.cluster is None else 0

    def listen(self, names: Sequence[str]) -> RedisListener:
        return RedisListener(self._address, names)

    # -- broadcasts: see `celeriac.brokers.abilities.Broadcasting` --------------------------------------------

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        self._script("subscribe", self._keys.subscriptions(broadcast), int(keep * 1000), queue)

    def subscribers(self, broadcast: str) -> list[str]:
        # As with bans: what is not over.
        return sorted(name.decode() for name in self._script("bans", self._keys.subscriptions(broadcast)))

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        key, age = self._keys.subscriptions(broadcast), int(grace * 1000)
        lapsed = [name.decode() for name in self._script("lapsed", key, age)]
        for queue in lapsed:
            self._run("delete", queue)
            self._call("SREM", self._keys.queues, queue)
        if lapsed:
            # Last: whoever is stopped before does it again.
            self._script("lapsed", key, age, *lapsed)
        return lapsed

    # -- looking and tending ------------------------------------------------------------------------------

    def _run(self, script: str, queue: str, *arguments: Any) -> Reply:
        return self._script(script, self._keys.base(queue), *arguments)

    def _script(self, name: str, key: str, *arguments: Any) -> Reply:
        def work(connection: Connection) -> Reply:
            return connection.script(SCRIPTS[name], key, *arguments)

        with broker_errors(self.place):
            return self._pool.run(key, self._address.timeout, work)

    def _call(self, *command: Any) -> Reply:
        """A command, whose first argument is its key."""
        return self._run_at(command[1], *command)

    def _run_at(self, key: str, *command: Any) -> Reply:
        """A command at the server that has this key."""
        with broker_errors(self.place):
            return self._pool.run(key, self._address.timeout, lambda line: line.call(*command))

    def _everywhere(self, *command: Any) -> list[Reply]:
        """What every server answers: each primary of a cluster."""
        with broker_errors(self.place):
            return self._pool.run_everywhere(self._address.timeout, lambda line: line.call(*command))

    def queues(self) -> list[str]:
        return sorted(name.decode() for name in self._call("SMEMBERS", self._keys.queues))

    def stats(self, queue: str) -> QueueStats:
        ready, delayed, running, dead, paused, evicted, *heads = self._run("stats", queue)
        ages = [at for head in heads if (at := message.created_at(head[message.KEY])) is not None]
        oldest_at = min(ages, default=None)
        return QueueStats(queue, ready, delayed, running, dead, oldest_at, bool(paused), evicted)

    def delayed(self, queue: str, limit: int) -> list[tuple[float, bytes]]:
        """See `celeriac.brokers.abilities.Foretells`."""
        found = self._call("ZRANGE", self._keys.base(queue) + ":d", 0, limit - 1, "WITHSCORES")
        # A member is its class, a number, a colon and the message.
        return [(score / 1000, member.partition(b":")[2]) for member, score in found]

    def purge(self, queue: str) -> int:
        return int(self._run("purge", queue))

    def pause(self, queue: str) -> None:
        self._call("SET", self._keys.base(queue) + ":p", 1)

    def resume(self, queue: str) -> None:
        self._run("resume", queue)

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        page = self._run("dead", queue, after or b"", limit)
        return [dead_letter(queue, page[i], page[i + 1]) for i in range(0, len(page), 2) if page[i + 1]]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        value = self._call("HGET", self._keys.base(queue) + ":y", key)
        return dead_letter(queue, key, value) if value is not None else None

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("replay", queue, self._keys.results, *part) for part in parts)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        parts = (keys[start : start + _BULK] for start in range(0, len(keys), _BULK))
        return sum(self._run("drop", queue, *part) for part in parts)

    def cautions(self) -> list[str]:
        try:
            told = [cautions(reply.decode()) for reply in self._everywhere("INFO", "memory")]
            return list(dict.fromkeys(text for texts in told for text in texts))
        except BrokerRefused:
            return []  # the server's ACL keeps it to itself

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        limits = ("" if keep is None else keep, "" if lifetime is None else int(lifetime * 1000))
        expired, surplus, oldest, more = self._run("prune_dead", queue, *limits, limit)
        return Pruned(expired, surplus, bytes(oldest), bool(more))

    def pack(self, queue: str, target: str, limit: int) -> Crate | None:
        """See `celeriac.brokers.abilities.Movable`, here and below."""
        return redis_moving.pack(self._run, queue, target, limit)

    def unpack(self, crate: Crate) -> bool:
        deadline = clock.monotonic() + self._address.timeout
        base = self._keys.base(crate.queue)

        def work(connection: Connection) -> bool:
            is_new = connection.script(SCRIPTS["unpack"], base, *redis_moving.words(crate))
            if self._address.replicas:
                self._wait_for_replicas(connection, deadline)
            return bool(is_new)

        with broker_errors(self.place):
            self._list_queues((crate.queue,), deadline)
            return self._pool.run(base, deadline - clock.monotonic(), work)

    def discard(self, crate: Crate) -> None:
        self._run("discard", crate.queue, crate.series, crate.number)

    def close(self) -> None:
        self._pool.close()


def _parts(batch: Sequence[Outgoing], most: Mapping[str, int]) -> list[_Part]:
    """Runs of ready messages of one queue and priority go in bulk, the rest one triple each."""
    if len(batch) == 1 and not most:
        return [("send", batch[0].queue, batch, None)]
    groups: dict[tuple[str, str, int], list[Outgoing]] = {}
    for one in batch:
        if one.queue in most:
            key = ("send_limited", one.queue, 0)
        else:
            key = ("send_bulk", one.queue, one.priority) if one.due_at is None else ("send", one.queue, 0)
        groups.setdefault(key, []).append(one)
    return [
        (script, queue, group[start : start + _BULK], most.get(queue))
        for (script, queue, _), group in groups.items()
        for start in range(0, len(group), _BULK)
    ]


def _stored(batch: Sequence[Outgoing]) -> list[Any]:
    """What the send script needs to store these messages."""
    return [word for one in batch for word in (one.priority, delay_text(one.due_at), one.data)]
