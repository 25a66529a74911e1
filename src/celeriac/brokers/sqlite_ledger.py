"""What one transaction moves between the tables of `sqlite.sql`, with the counters that go with it.

A `Ledger` lives as long as its transaction. New messages and counters are written together at its end, so
that a settlement of a hundred deliveries is a hundred deletions and a handful of statements more.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    CRASHED,
    HIGHEST_PRIORITY,
    REVOKED,
    Casualty,
    Outgoing,
    crash_detail,
    crash_pause,
    is_given_up,
)
from celeriac.drivers.sqlite import SQLiteFile, load_queries, translated
from celeriac.exceptions import BrokerRefused, BrokerUnavailable
from celeriac.message import KEY

LEASE_EXPIRED: Final = "lease expired"
#: The verdict on a message whose run had been committed; with a colon and the cause where one is known.
WORKER_LOST: Final = "worker_lost"

#: Seconds that a verb without a timeout of its own waits for other processes' transactions.
PATIENCE: Final = 5.0
#: Revocations whose time is over that one turn of housekeeping deletes.
FORGOTTEN_AT_ONCE: Final = 1_000
#: The urgency of the revoked: before every other.
FIRST: Final = -HIGHEST_PRIORITY - 1

#: Due messages that one `take` moves at most: when a million fall due together, nobody waits for them all.
PROMOTED_AT_ONCE: Final = 500

T = TypeVar("T")

QUERIES: Final = load_queries(os.path.join(os.path.dirname(__file__), "sqlite.sql"))

write_history: Final = msgspec.msgpack.Encoder().encode
_read_history: Final = msgspec.msgpack.Decoder(list[Casualty]).decode


class Held(NamedTuple):
    """A row of `running` that has been taken out of it."""

    urgency: int
    position: int
    data: bytes
    history: bytes | None
    verdict: str | None
    is_committed: int = 0


class Moves(msgspec.Struct):
    """What is to be added to the counters of one queue."""

    was_sent_to: int = 0
    ready: int = 0
    delayed: int = 0
    running: int = 0
    dead: int = 0


class Ledger:
    """The moves of one transaction. `now` is one moment for all of them."""

    def __init__(self, file: SQLiteFile, connection: sqlite3.Connection) -> None:
        self.file = file
        self.connection = connection
        self.now = clock.now()
        self._moves: dict[str, Moves] = {}
        self._sent: list[Outgoing] = []

    def run(self, query: str, *values: Any) -> list[Any]:
        """The rows of one statement of `sqlite.sql`."""
        return self.connection.execute(QUERIES[query], values).fetchall()

    def run_many(self, query: str, values: Sequence[tuple[Any, ...]]) -> None:
        self.connection.executemany(QUERIES[query], values)

    def moves(self, queue: str) -> Moves:
        found = self._moves.get(queue)
        if found is None:
            found = self._moves[queue] = Moves()
        return found

    def take_positions(self, count: int) -> range:
        """So many numbers that nobody had before, ascending."""
        [(last,)] = self.connection.execute(QUERIES["take_positions"], {"count": count}).fetchall()
        return range(last - count + 1, last + 1)

    def send(self, batch: Sequence[Outgoing]) -> None:
        self._sent += batch

    def put_back(self, queue: str, held: Held) -> None:
        """Ready again, in its old place: at the head, since it had been taken from there."""
        verdict = WORKER_LOST if held.is_committed else held.verdict
        self.run("add_ready", queue, held.urgency, held.position, held.data, held.history, verdict)
        self.moves(queue).ready += 1

    def judge(self, queue: str, held: Held, verdict: str) -> None:
        """Ready again, not to run, but to be settled as the verdict says."""
        self.put_back(queue, held._replace(verdict=verdict, is_committed=0))

    def bury(self, queue: str, held: Held, reason: str, detail: str) -> None:
        """Garbage messages, and copies of one message, may share a key: the later one gets one of its own."""
        row = (held.urgency, held.data, reason, detail, self.now, held.history)
        self.add_dead(queue, held.data[KEY], row)

    def add_dead(self, queue: str, key: bytes, row: tuple[Any, ...]) -> None:
        """A dead letter; `row`: all but its queue and key."""
        for name in (key, os.urandom(16)):
            if self.connection.execute(QUERIES["add_dead"], (queue, name, *row)).rowcount:
                break
        self.moves(queue).dead += 1

    def count_crash(self, queue: str, held: Held, casualty: Casualty, max_deliveries: int) -> None:
        if held.is_committed:
            self.judge(queue, held, f"{WORKER_LOST}:{casualty.cause}")
            return
        casualties = [*casualties_of(held.history), casualty]
        held = held._replace(history=write_history(casualties))
        if is_given_up(len(casualties), held.verdict, max_deliveries):
            self.bury(queue, held, CRASHED, crash_detail(casualties))
        elif len(casualties) >= max_deliveries:
            self.judge(queue, held, f"{CRASHED}:{crash_detail(casualties)}")
        elif pause := crash_pause(len(casualties)):
            self.delay(queue, held, self.now + pause)
        else:
            self.put_back(queue, held)

    def delay(self, queue: str, held: Held, due_at: float) -> None:
        """Waits until then, with all that is known of it."""
        [position] = self.take_positions(1)
        verdict = WORKER_LOST if held.is_committed else held.verdict
        self.run("add_delayed", queue, due_at, position, held.urgency, held.data, held.history, verdict)
        self.moves(queue).delayed += 1

    def end_lease(self, queue: str, owner: str) -> list[Held]:
        """What that owner held, oldest delivery first; the caller says what becomes of it."""
        self.run("end_lease", queue, owner)
        rows = sorted(self.run("take_holding", queue, owner))
        self.moves(queue).running -= len(rows)
        return [Held(*row[1:]) for row in rows]

    def keep_house(self, queue: str, last: float | None, lease: float, max_deliveries: int) -> None:
        """End leases that have expired; where nobody has looked for half a lease, lengthen all (amnesty).

        Nobody has looked, either, if the last one did so in the future: the clock was set back.
        """
        self.run("mark_house", self.now, queue)
        self.run("forget_expired", queue, self.now, FORGOTTEN_AT_ONCE)
        if last is not None and not 0 <= self.now - last <= lease / 2:
            self.run("amnesty", self.now, queue)
            return
        for (owner,) in self.run("expired_owners", queue, self.now):
            for held in self.end_lease(queue, owner):
                self.count_crash(queue, held, Casualty(LEASE_EXPIRED, self.now, owner), max_deliveries)

    def come_first(
        self, queue: str, position: int, data: bytes, history: bytes | None, verdict: str = REVOKED
    ) -> None:
        """A revoked message that waits, taken out of its table, comes before all others."""
        self.run("add_ready", queue, FIRST, position, data, history, verdict)
        self.run("forget", queue, data[KEY])

    def catch_revoked(self, queue: str, limit: int) -> None:
        """Judge those at the head of the queue that are remembered as revoked."""
        for urgency, position, _, data, history, verdict in self.run("head", queue, limit):
            if verdict is None and self.run("is_remembered", queue, data[KEY], self.now):
                self.run("delete_ready", queue, urgency, position)
                self.come_first(queue, position, data, history)

    def promote_due(self, queue: str) -> None:
        rows = self.run("due", queue, self.now, PROMOTED_AT_ONCE)
        if not rows:
            return
        positions = self.take_positions(len(rows))
        self.run_many("delete_delayed", [(queue, row[0], row[1]) for row in rows])
        self.run_many("add_ready", [
            (queue, urgency, position, data, history, verdict)
            for (_, _, urgency, data, history, verdict), position in zip(rows, positions, strict=True)
        ])  # fmt: skip
        moves = self.moves(queue)
        moves.delayed -= len(rows)
        moves.ready += len(rows)

    def write(self) -> None:
        """Store what was sent, and add up the counters. The last thing in the transaction."""
        if self._sent:
            self._store_sent()
        for queue, moves in self._moves.items():
            row = (queue, moves.was_sent_to, moves.ready, moves.delayed, moves.running, moves.dead)
            if any(row[1:]):
                self.run("add_to_counters", *row)

    def _store_sent(self) -> None:
        ready: list[tuple[Any, ...]] = []
        delayed: list[tuple[Any, ...]] = []
        for one, position in zip(self._sent, self.take_positions(len(self._sent)), strict=True):
            moves = self.moves(one.queue)
            moves.was_sent_to = 1
            if one.due_at is None or one.due_at <= self.now:
                ready.append((one.queue, -one.priority, position, one.data, None, None))
                moves.ready += 1
            else:
                delayed.append((one.queue, one.due_at, position, -one.priority, one.data, None, None))
                moves.delayed += 1
        self.run_many("add_ready", ready)
        self.run_many("add_delayed", delayed)


def are_transient(batch: Iterable[Outgoing]) -> bool:
    """Whether a power cut may take all these messages away."""
    return all(one.transient for one in batch)


def write(file: SQLiteFile, work: Callable[[Ledger], T], timeout: float = PATIENCE, synced: bool = True) -> T:
    """Run `work` on the ledger of one transaction, as `SQLiteFile.write` does."""

    def transaction(connection: sqlite3.Connection) -> T:
        ledger = Ledger(file, connection)
        result = work(ledger)
        ledger.write()
        return result

    with translated(file, BrokerUnavailable, BrokerRefused):
        return file.write(transaction, timeout, synced)


def casualties_of(history: bytes | None) -> list[Casualty]:
    """What a row's history says."""
    return [] if history is None else _read_history(history)
