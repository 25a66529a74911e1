"""Joins in an SQLite file: statements within a transaction, for the result store and for the broker's settlements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from celeriac import clock
from celeriac.brokers.contract import JOIN_TTL, Arrival, Join, Outgoing
from celeriac.drivers.sqlite import load_queries

_QUERIES: Final = load_queries(__file__)


def open_join(connection: sqlite3.Connection, join: Join) -> None:
    """From now on results may come to it; nothing where it is open."""
    sent = join.outgoing
    connection.execute(_QUERIES["open"], {
        "key": join.key, "size": join.size, "queue": sent.queue, "priority": sent.priority, "due_at": sent.due_at,
        "delay": join.delay, "data": sent.data, "expires_at": clock.now() + JOIN_TTL,
    })  # fmt: skip


def size_join(connection: sqlite3.Connection, key: bytes, size: int) -> list[Outgoing]:
    """Say how many it waits for. Its message, if they had all come."""
    connection.execute(_QUERIES["set_size"], {"key": key, "size": size})
    return _due(connection, key, None)


def grow_join(connection: sqlite3.Connection, key: bytes) -> int | None:
    """Let it wait for one more. The new place, or None."""
    rows = connection.execute(_QUERIES["grow"], {"key": key}).fetchall()
    return rows[0][0] if rows else None


def arrive(connection: sqlite3.Connection, arrivals: Iterable[Arrival], *, again: bool) -> list[Outgoing]:
    """Note results at their joins. The messages of those that are complete by it; `again`, also of those that were
    complete by it before."""
    due: list[Outgoing] = []
    for one in arrivals:
        row = {"key": one.join, "place": one.place}
        is_first = connection.execute(_QUERIES["arrive"], {**row, "data": one.data}).rowcount > 0
        if is_first:
            connection.execute(_QUERIES["count"], row)
        if is_first or again:
            due += _due(connection, one.join, one.place)
    return due


def gathered(connection: sqlite3.Connection, key: bytes) -> list[bytes] | None:
    """What came to a complete join, by place."""
    row = connection.execute(_QUERIES["message"], {"key": key}).fetchone()
    if row is None or row[0] != row[1]:
        return None
    return [data for (data,) in connection.execute(_QUERIES["gathered"], {"key": key})]


def end_joins(connection: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Delete joins with all that came to them."""
    for key in keys:
        connection.execute(_QUERIES["end_arrivals"], {"key": key})
        connection.execute(_QUERIES["end"], {"key": key})


def sweep_joins(connection: sqlite3.Connection, limit: int) -> int:
    """Delete joins that nobody has used for their whole time. Returns how many."""
    found = connection.execute(_QUERIES["expired"], {"now": clock.now(), "limit": limit}).fetchall()
    end_joins(connection, [key for (key,) in found])
    return len(found)


def _due(connection: sqlite3.Connection, key: bytes, place: int | None) -> list[Outgoing]:
    """The message of a join that is complete, by that place where one is given."""
    row = connection.execute(_QUERIES["message"], {"key": key}).fetchone()
    if row is None:
        return []
    size, came, completed_by, queue, data, priority, due_at, delay = row
    if came != size or completed_by != place:
        return []
    return [Outgoing(queue, data, priority, due_at if delay is None else clock.now() + delay)]
