"""The broker in a PostgreSQL database (`postgresql://`), 12 or later. `drivers/postgres_tables.sql` describes it.

Every verb is one call of a function there: one round trip and one transaction, by the server's clock. Consumers lock
the rows that they take and skip those that others have locked. Who sends notifies somebody only where somebody waits.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers import postgres_moving, postgres_revoking, room
from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.abilities import Crate
from celeriac.brokers.contract import Casualty, DeadLetter, Outgoing, QueueStats, Revocation
from celeriac.brokers.postgres_consumer import PostgresConsumer
from celeriac.brokers.postgres_listener import PostgresListener
from celeriac.brokers.postgres_within import Guests
from celeriac.brokers.pruning import Pruned, prunable
from celeriac.drivers.postgres import Address, Pool, broker_errors
from celeriac.drivers.postgres_schema import connected, upgrade
from celeriac.drivers.postgres_wire import Verb
from celeriac.exceptions import BrokerUnavailable
from celeriac.message import created_at
from celeriac.urls import Url

#: Messages in one call: each of them is a transaction.
_BULK: Final = 20_000
#: Seconds between two tries of a send; the first retry comes at once.
_RETRY_PAUSE: Final = 0.05
#: Settings of the server, and what it means that one is off.
_CAUTIONS: Final = {
    "autovacuum": "rows that are done with are never removed, and the tables of the queues grow without end",
    "fsync": "a power cut may lose what was stored, and damage the database",
    "synchronous_commit": "a crash of the server loses what was stored in its last moments",
}
_SETTINGS: Final = Verb(
    "SELECT name, setting FROM pg_settings WHERE name IN ('autovacuum', 'fsync', 'synchronous_commit')",
    "",
    "text text",
)
#: Messages that one transaction of `purge` deletes.
_PURGED_AT_ONCE: Final = 10_000


class PostgresBroker:
    """See `celeriac.brokers.contract.Broker`."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._address = Address(url, options)
        self._pool = Pool(self._address, connected)
        self._guests = Guests(self._address.schema, self._call, self._address.place)

    @property
    def place(self) -> str:
        return self._address.place

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        for start in range(0, len(batch), _BULK):
            self._send_part(verbs.SEND, verbs.words(batch[start : start + _BULK]), timeout, deadline)

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        """See `celeriac.brokers.abilities.Limiting`."""
        deadline = clock.monotonic() + timeout
        for start in range(0, len(batch), _BULK):
            arguments = (*verbs.words(batch[start : start + _BULK]), list(most), list(most.values()))
            [(queue,)] = self._send_part(verbs.SEND_LIMITED, arguments, timeout, deadline)
            if queue is not None:
                raise room.full(queue, most[queue])

    def _send_part(
        self, verb: Verb, arguments: Sequence[Any], timeout: float, deadline: float
    ) -> list[tuple[Any, ...]]:
        """Store messages; the mark lets the server know a call whose answer was lost."""
        mark = os.urandom(12)
        is_first = True
        while True:
            try:
                with (
                    broker_errors(self.place),
                    self._pool.connection(deadline - clock.monotonic()) as connection,
                ):
                    return connection.call(verb, mark, *arguments)
            except BrokerUnavailable as exc:
                if clock.monotonic() + _RETRY_PAUSE >= deadline:
                    raise BrokerUnavailable(f"not stored within {timeout:g} s: {exc}") from exc
                if not is_first:
                    clock.sleep(_RETRY_PAUSE)
                is_first = False

    def send_within(self, batch: Sequence[Outgoing], connection: Any) -> None:
        """See `celeriac.brokers.abilities.Transactional`."""
        self._guests.send(batch, connection)

    # -- consuming ----------------------------------------------------------------------------------------

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> PostgresConsumer:
        return PostgresConsumer(self._address, queues, owner, lease, max_deliveries)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        [(known,)] = self._call(verbs.RENEW, owners, lease, max_deliveries)
        return [owner for owner in owners if owner not in known]

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        [(count,)] = self._call(
            verbs.SURRENDER, owner,
            list(casualties), [verbs.write_casualty(one) for one in casualties.values()],
            [verbs.raw(one.cause) for one in casualties.values()],
            list(verdicts), [verbs.raw(one) for one in verdicts.values()], max_deliveries,
        )  # fmt: skip
        return int(count)

    # -- revoking and telling -----------------------------------------------------------------------------

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        return postgres_revoking.revoke(self._call, queue, revocations, keep)

    def revoked(self, queue: str) -> list[Revocation]:
        return [Revocation(*row) for row in self._call(verbs.REVOKED, queue)]

    def held(self, queue: str, keys: Collection[bytes]) -> set[bytes]:
        [(held,)] = self._call(verbs.HELD_KEYS, queue)
        return set(keys).intersection(held)

    def ban(self, ban: bytes, keep: float) -> None:
        postgres_revoking.ban(self._call, ban, keep)

    def bans(self) -> list[bytes]:
        return [data for (data,) in self._call(verbs.BANS)]

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        return postgres_revoking.find(self._call, queue, part)

    def notify(self, name: str, data: bytes) -> int:
        self._call(verbs.TELL, name, data)
        return 0

    def listen(self, names: Sequence[str]) -> PostgresListener:
        return PostgresListener(self._address, names)

    # -- broadcasts: see `celeriac.brokers.abilities.Broadcasting` --------------------------------------------

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        self._call(verbs.SUBSCRIBE, broadcast, queue, keep)

    def subscribers(self, broadcast: str) -> list[str]:
        return sorted(queue for (queue,) in self._call(verbs.SUBSCRIBERS, broadcast))

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        return [queue for (queue,) in self._call(verbs.FORGET_LAPSED, broadcast, grace)]

    # -- looking and tending ------------------------------------------------------------------------------

    def queues(self) -> list[str]:
        return sorted(name for (name,) in self._call(verbs.QUEUES))

    def delayed(self, queue: str, limit: int) -> list[tuple[float, bytes]]:
        """See `celeriac.brokers.abilities.Foretells`."""
        return [(due, data) for due, data in self._call(verbs.DELAYED, queue, limit)]

    def stats(self, queue: str) -> QueueStats:
        [(ready, delayed, running, dead, is_paused, evicted, oldest)] = self._call(verbs.STATS, queue)
        oldest_at = None if oldest is None else created_at(oldest)
        return QueueStats(queue, ready, delayed, running, dead, oldest_at, is_paused, evicted)

    def purge(self, queue: str) -> int:
        [(last,)] = self._call(verbs.LAST_POSITION)
        total = 0
        while count := self._call(verbs.PURGE, queue, last, _PURGED_AT_ONCE)[0][0]:
            total += count
        return total

    def pause(self, queue: str) -> None:
        self._call(verbs.PAUSE, queue, True)

    def resume(self, queue: str) -> None:
        self._call(verbs.PAUSE, queue, False)

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        return [_letter(queue, row) for row in self._call(verbs.DEAD, queue, after, limit)]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        rows = self._call(verbs.FIND_DEAD, queue, key)
        return _letter(queue, rows[0]) if rows else None

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        return int(self._call(verbs.REPLAY, queue, keys)[0][0])

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        return int(self._call(verbs.DROP, queue, keys)[0][0])

    def cautions(self) -> list[str]:
        rows = dict(self._call(_SETTINGS))
        return [
            f"{name} is off: {what}; set it on" for name, what in _CAUTIONS.items() if rows.get(name) == "off"
        ]

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        rows = self._call(verbs.DEAD_AGES, queue, limit + 1)
        count = rows[0][3] if rows else 0
        head = [(key, -age) for key, age, _, _ in rows]
        pruned = prunable(head, count, keep, None if lifetime is None else -lifetime, limit)
        if gone := pruned.expired + pruned.surplus:
            self._call(verbs.EVICT, queue, [serial for _, _, serial, _ in rows[:gone]])
        return pruned

    def pack(self, queue: str, target: str, limit: int) -> Crate | None:
        """See `celeriac.brokers.abilities.Movable`, here and below."""
        return postgres_moving.pack(self._call, queue, target, limit)

    def unpack(self, crate: Crate) -> bool:
        return postgres_moving.unpack(self._call, crate)

    def discard(self, crate: Crate) -> None:
        self._call(verbs.DISCARD, crate.queue, crate.series, crate.number)

    def migrate(self, dry_run: bool) -> list[str]:
        """See `celeriac.brokers.abilities.Migrates`."""
        with broker_errors(self.place):
            return upgrade(self._address, dry_run)

    def close(self) -> None:
        self._pool.close()

    def _call(self, verb: Verb, *arguments: Any) -> list[tuple[Any, ...]]:
        with broker_errors(self.place):
            return self._pool.call(verb, *arguments)


def _letter(queue: str, row: tuple[Any, ...]) -> DeadLetter:
    key, data, reason, detail, died_at, history = row
    casualties = [verbs.read_casualty(one) for one in history]
    return DeadLetter(queue, key, data, verbs.text(reason), verbs.text(detail), died_at, casualties)
