"""A broker in an SQLite file (`sqlite:///file`): one machine, any number of processes, no server.

Every verb is one transaction. Who waits for messages is woken when anybody has committed to the file, and looks into
the queue only then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from celeriac import clock
from celeriac.brokers import room, sqlite_listener, sqlite_moving, sqlite_revoking
from celeriac.brokers.abilities import Crate
from celeriac.brokers.contract import (
    HIGHEST_PRIORITY,
    REVOKED,
    Casualty,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueStats,
    Record,
    Revocation,
    Settlement,
)
from celeriac.brokers.pruning import Pruned, prunable
from celeriac.brokers.sqlite_broadcasts import SQLiteBroadcasts
from celeriac.brokers.sqlite_ledger import PATIENCE, QUERIES, Ledger, are_transient, casualties_of, write
from celeriac.brokers.sqlite_listener import SQLiteListener
from celeriac.brokers.sqlite_settling import settle
from celeriac.drivers.sqlite import SQLiteFile, translated
from celeriac.exceptions import BrokerRefused, BrokerUnavailable, LeaseLost
from celeriac.message import KEY, created_at
from celeriac.urls import Url

T = TypeVar("T")

#: Messages that one transaction of `purge` deletes: senders are let in between.
PURGED_AT_ONCE: Final = 10_000
#: Housekeeping is done by a `take` when nobody has done it for this part of a lease.
HOUSE_PART: Final = 1 / 8


class SQLiteBroker(SQLiteBroadcasts):
    """The broker of one file. See `Broker` for what each verb promises."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        self._file = SQLiteFile.of(url, options)

    @property
    def place(self) -> str:
        return self._file.place

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        if batch:
            write(self._file, lambda ledger: ledger.send(batch), timeout, not are_transient(batch))

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        def work(ledger: Ledger) -> None:
            room.check(batch, most, lambda name: sum(ledger.run("waiting", name)[0]))
            ledger.send(batch)

        write(self._file, work, timeout, not are_transient(batch))

    def consumer(
        self, queues: Sequence[str], owner: str, *, lease: float, max_deliveries: int
    ) -> SQLiteConsumer:
        return SQLiteConsumer(self._file, queues, owner, lease, max_deliveries)

    def renew(
        self, queues: Sequence[str], owners: Sequence[str], lease: float, max_deliveries: int
    ) -> list[str]:
        def work(ledger: Ledger) -> list[str]:
            known: set[str] = set()
            for queue in queues:
                for owner in owners:
                    row = (ledger.now + lease, lease, queue, owner)
                    if ledger.connection.execute(QUERIES["renew_lease"], row).rowcount:
                        known.add(owner)
                for last, *_ in ledger.run("house", "", queue):
                    ledger.keep_house(queue, last, lease, max_deliveries)
            return [owner for owner in owners if owner not in known]

        return write(self._file, work)

    def surrender(
        self,
        queues: Sequence[str],
        owner: str,
        casualties: Mapping[bytes, Casualty],
        verdicts: Mapping[bytes, str],
        max_deliveries: int,
    ) -> int:
        def work(ledger: Ledger) -> int:
            count = 0
            for queue in queues:
                for held in ledger.end_lease(queue, owner):
                    count += 1
                    key = held.data[KEY]
                    if key in verdicts:
                        ledger.judge(queue, held, verdicts[key])
                    elif key in casualties:
                        ledger.count_crash(queue, held, casualties[key], max_deliveries)
                    else:
                        ledger.put_back(queue, held)
            return count

        return write(self._file, work)

    def revoke(self, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
        return sqlite_revoking.revoke(self._file, queue, revocations, keep)

    def revoked(self, queue: str) -> list[Revocation]:
        rows = self._rows("revoked", queue, clock.now())
        return [Revocation(key, bool(terminate), signal) for key, terminate, signal in rows]

    def held(self, queue: str, keys: Collection[bytes]) -> set[bytes]:
        return set(keys).intersection(key for (key,) in self._rows("held_keys", queue))

    def ban(self, ban: bytes, keep: float) -> None:
        sqlite_revoking.ban(self._file, ban, keep)

    def bans(self) -> list[bytes]:
        return sqlite_revoking.bans(self._file)

    def find(self, queue: str, part: bytes) -> Iterator[bytes]:
        return sqlite_revoking.find(self._file, queue, part)

    def notify(self, name: str, data: bytes) -> int:
        sqlite_listener.notify(self._file, name, data)
        return 0

    def listen(self, names: Sequence[str]) -> SQLiteListener:
        return SQLiteListener(self._file, names)

    def queues(self) -> list[str]:
        return [name for (name,) in self._rows("queues")]

    def stats(self, queue: str) -> QueueStats:
        def work(connection: sqlite3.Connection) -> QueueStats:
            counters = connection.execute(QUERIES["counters"], (queue,)).fetchone() or (0,) * 6
            ready, delayed, running, dead, paused, evicted = counters
            oldest_at = _oldest_at(connection, queue) if ready else None
            return QueueStats(queue, ready, delayed, running, dead, oldest_at, bool(paused), evicted)

        return self._read(work)

    def delayed(self, queue: str, limit: int) -> list[tuple[float, bytes]]:
        """See `celeriac.brokers.abilities.Foretells`."""
        return [(due_at, data) for due_at, _, _, data, *_ in self._rows("due", queue, float("inf"), limit)]

    def purge(self, queue: str) -> int:
        [(last,)] = self._rows("last_position")

        def some(ledger: Ledger) -> int:
            values = {"queue": queue, "last": last, "limit": PURGED_AT_ONCE}
            ready = ledger.connection.execute(QUERIES["purge_ready"], values).rowcount
            delayed = ledger.connection.execute(QUERIES["purge_delayed"], values).rowcount
            ledger.moves(queue).ready -= ready
            ledger.moves(queue).delayed -= delayed
            return ready + delayed

        total = 0
        while count := write(self._file, some):
            total += count
        return total

    def pause(self, queue: str) -> None:
        write(self._file, lambda ledger: ledger.run("pause", 1, queue))

    def resume(self, queue: str) -> None:
        write(self._file, lambda ledger: ledger.run("pause", 0, queue))

    def dead(self, queue: str, *, after: bytes | None = None, limit: int = 100) -> list[DeadLetter]:
        values = {"queue": queue, "after": after, "limit": limit}
        rows = self._read(lambda connection: connection.execute(QUERIES["dead"], values).fetchall())
        return [_letter(queue, row) for row in rows]

    def find_dead(self, queue: str, key: bytes) -> DeadLetter | None:
        rows = self._rows("find_dead", queue, key)
        return _letter(queue, rows[0]) if rows else None

    def replay(self, queue: str, keys: Sequence[bytes]) -> int:
        def work(ledger: Ledger) -> int:
            rows = [row for key in keys for row in ledger.run("take_dead", queue, key)]
            ledger.send([Outgoing(queue, data, min(-urgency, HIGHEST_PRIORITY)) for urgency, data in rows])
            ledger.run_many("forget_result", [(data[KEY],) for _, data in rows])
            ledger.moves(queue).dead -= len(rows)
            return len(rows)

        return write(self._file, work)

    def drop(self, queue: str, keys: Sequence[bytes]) -> int:
        def work(ledger: Ledger) -> int:
            count = sum(len(ledger.run("take_dead", queue, key)) for key in keys)
            ledger.moves(queue).dead -= count
            return count

        return write(self._file, work)

    def cautions(self) -> list[str]:
        return []

    def prune_dead(self, queue: str, keep: int | None, lifetime: float | None, limit: int = 200) -> Pruned:
        def look(connection: sqlite3.Connection, limit: int = 1) -> tuple[Pruned, list[Any]]:
            rows = connection.execute(QUERIES["dead_ages"], (queue, limit + 1)).fetchall()
            before = None if lifetime is None else clock.now() - lifetime
            count = rows[0][3] if rows else 0
            return prunable([row[:2] for row in rows], count, keep, before, limit), rows

        def work(ledger: Ledger) -> Pruned:
            pruned, rows = look(ledger.connection, limit)
            if gone := pruned.expired + pruned.surplus:
                ledger.run("evict_dead", queue, rows[gone - 1][2])
                ledger.run("count_evictions", queue, gone)
                ledger.moves(queue).dead -= gone
            return pruned

        # A look at the first waits for nobody, and keeps nobody waiting.
        first, _ = self._read(look)
        return write(self._file, work) if first.expired or first.surplus else first

    def pack(self, queue: str, target: str, limit: int) -> Crate | None:
        """See `celeriac.brokers.abilities.Movable`, here and below."""
        return sqlite_moving.pack(self._file, queue, target, limit)

    def unpack(self, crate: Crate) -> bool:
        return sqlite_moving.unpack(self._file, crate)

    def discard(self, crate: Crate) -> None:
        sqlite_moving.discard(self._file, crate)

    def close(self) -> None:
        self._file.close()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._file, BrokerUnavailable, BrokerRefused):
            return self._file.read(work, PATIENCE)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._read(lambda connection: connection.execute(QUERIES[query], values).fetchall())


class SQLiteConsumer:
    """Takes and settles under one owner. See `Consumer` for what each verb promises."""

    def __init__(
        self, file: SQLiteFile, queues: Sequence[str], owner: str, lease: float, max_deliveries: int
    ) -> None:
        self._file = file
        self._queues = tuple(dict.fromkeys(queues))
        self._first_owner = owner
        self._lease = lease
        self._max_deliveries = max_deliveries
        #: Written inside transactions, which the file runs one at a time; the flags are read anywhere.
        self._owner = owner
        self._owners_lost = 0
        #: The owner whose leases were committed; another name than `_owner` before the first take.
        self._registered = ""
        self._is_closed = False
        self._is_woken = False

    @property
    def owner(self) -> str:
        return self._owner

    @property
    def place(self) -> str:
        return self._file.place

    def take(self, limit: int, timeout: float, order: Sequence[str] | None = None) -> list[Delivery]:
        deadline = clock.monotonic() + timeout
        while True:
            # However short its wait: other threads of the process, and other processes, use the file in turn.
            patience = max(PATIENCE, deadline - clock.monotonic())
            with translated(self._file, BrokerUnavailable, BrokerRefused):
                seen = self._file.version(patience)
                quiet = self._file.read(self._quiet_for, patience)
            if quiet <= 0:
                owner, taken = write(self._file, lambda ledger: self._take(ledger, limit, order), patience)
                if taken is None:
                    raise LeaseLost(
                        f"the lease of {owner!r} ended: it was not renewed for {self._lease:g} s, "
                        "and what it held has been given to others"
                    )
                self._registered = owner
                if taken:
                    return taken
                # Nothing, although there seemed to be: another was faster, or only house was kept.
            remaining = deadline - clock.monotonic()
            if self._is_woken or remaining <= 0:
                self._is_woken = False
                return []
            if quiet > 0:
                with translated(self._file, BrokerUnavailable, BrokerRefused):
                    self._file.wait(seen, min(remaining, quiet), lambda: self._is_woken)

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        return settle(self._file, settlements)

    def confirm(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        def work(connection: sqlite3.Connection) -> list[Delivery]:
            return [
                one
                for one in deliveries
                if not connection.execute(QUERIES["is_running"], (one.queue, one.fence, one.owner)).fetchall()
            ]

        with translated(self._file, BrokerUnavailable, BrokerRefused):
            return self._file.read(work, PATIENCE)

    def note(self, delivery: Delivery, records: Sequence[Record]) -> bool:
        def work(ledger: Ledger) -> bool:
            if not ledger.run("is_running", delivery.queue, delivery.fence, delivery.owner):
                return False
            ledger.file.put_records(ledger.connection, records)
            return True

        return write(self._file, work)

    def commit(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        def work(ledger: Ledger) -> list[Delivery]:
            keys = [(one.queue, one.fence, one.owner) for one in deliveries]
            counts = [ledger.connection.execute(QUERIES["commit"], key).rowcount for key in keys]
            return [one for one, count in zip(deliveries, counts, strict=True) if not count]

        return write(self._file, work) if deliveries else []

    def bans(self) -> list[bytes]:
        return sqlite_revoking.bans(self._file)

    def wake(self) -> None:
        self._is_woken = True
        self._file.wake()

    def close(self) -> None:
        self._is_closed = True
        self.wake()
        if self._registered:
            write(self._file, self._end_leases)
            self._registered = ""

    def _quiet_for(self, connection: sqlite3.Connection) -> float:
        """Seconds in which a transaction would find nothing to do unless somebody commits; at most 0: none."""
        now = clock.now()
        quiet = self._lease
        for queue in self._queues:
            row = connection.execute(QUERIES["glance"], (self._owner, queue)).fetchone()
            if row is None or row[2] is None:
                return 0.0
            paused, housekept_at, expires_at, has_ready, due_at = row
            if has_ready and not paused:
                return 0.0
            if housekept_at is None or housekept_at > now:
                return 0.0
            quiet = min(
                quiet, housekept_at + self._lease * HOUSE_PART - now, expires_at - self._lease / 2 - now
            )
            if due_at is not None and not paused:
                quiet = min(quiet, due_at - now)
        return quiet

    def _take(
        self, ledger: Ledger, limit: int, order: Sequence[str] | None
    ) -> tuple[str, list[Delivery] | None]:
        """Housekeeping, then what is to be taken next; under whose name, and None where its lease is lost."""
        owner = self._owner
        if self._is_closed:
            raise BrokerRefused(f"the consumer {owner!r} is closed")
        if self._registered != owner:
            self._register(ledger)
        open_queues: list[str] = []
        for queue in self._queues:
            # No row at all where the file was deleted and made anew.
            row = ledger.run("house", self._owner, queue) or [(None, 0, None, 0)]
            [(last, paused, expires_at, has_revoked)] = row
            if expires_at is None:
                self._end_leases(ledger)
                self._owners_lost += 1
                self._owner = f"{self._first_owner}.{self._owners_lost}"
                return owner, None
            if expires_at < ledger.now + self._lease / 2:
                # Who takes is alive: its own housekeeping must not end its lease.
                ledger.run("renew_lease", ledger.now + self._lease, self._lease, queue, self._owner)
            if last is None or not 0 <= ledger.now - last < self._lease * HOUSE_PART:
                ledger.keep_house(queue, last, self._lease, self._max_deliveries)
            ledger.promote_due(queue)
            if has_revoked and not paused:
                ledger.catch_revoked(queue, limit)
            if not paused:
                open_queues.append(queue)
        looks = [open_queues] if order is None else [[queue] for queue in order if queue in open_queues]
        for look in looks:
            if taken := self._pick(ledger, look, limit):
                return owner, taken
        return owner, []

    def _register(self, ledger: Ledger) -> None:
        for queue in self._queues:
            ledger.run("add_to_counters", queue, 0, 0, 0, 0, 0)
            ledger.run("add_lease", queue, self._owner, ledger.now + self._lease, self._lease)

    def _end_leases(self, ledger: Ledger) -> None:
        for queue in self._queues:
            for held in ledger.end_lease(queue, self._owner):
                ledger.put_back(queue, held)

    def _pick(self, ledger: Ledger, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Move the head of the queues, merged by urgency and position, into the holding; a suspect alone."""
        rows = [row for queue in queues for row in ledger.run("head", queue, limit)]
        if len(queues) > 1:
            rows.sort(key=lambda row: row[:2])
        rows = _up_to_a_suspect(rows[:limit])
        if not rows:
            return []
        taken: list[Delivery] = []
        running: list[tuple[Any, ...]] = []
        for row, fence in zip(rows, ledger.take_positions(len(rows)), strict=True):
            urgency, position, queue, data, history, verdict = row
            running.append((queue, fence, self._owner, urgency, position, data, history, verdict))
            crashes = len(casualties_of(history)) if history is not None else 0
            taken.append(Delivery(queue, data, self._owner, fence, crashes, verdict))
            moves = ledger.moves(queue)
            moves.ready -= 1
            moves.running += 1
            if verdict is not None and verdict.startswith(REVOKED):
                ledger.run("forget", queue, data[KEY])
        ledger.run_many("delete_ready", [(row[2], row[0], row[1]) for row in rows])
        ledger.run_many("add_running", running)
        return taken


def _up_to_a_suspect(rows: list[Any]) -> list[Any]:
    for place, (_, _, _, _, history, verdict) in enumerate(rows):
        if history is not None or verdict is not None:
            return rows[: max(place, 1)]
    return rows


def _oldest_at(connection: sqlite3.Connection, queue: str) -> float | None:
    """When the ready message with the smallest position was made: one look at the head of each urgency."""
    heads: list[tuple[int, bytes]] = []
    urgency: float = float("-inf")
    while rows := connection.execute(QUERIES["next_urgency"], (queue, urgency)).fetchall():
        [(urgency, position, key)] = rows
        heads.append((position, key))
    return created_at(min(heads)[1]) if heads else None


def _letter(queue: str, row: Any) -> DeadLetter:
    key, data, reason, detail, died_at, history = row
    return DeadLetter(queue, key, data, reason, detail, died_at, casualties_of(history))
