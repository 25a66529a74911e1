"""Revocations in an SQLite file: remembered first, then looked for in short transactions.

The tables have no index by key, which would cost every message on its way in and out: whoever revokes reads what waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import MOST_BANS, REMEMBERED, REVOKED, Revocation
from celeriac.brokers.sqlite_ledger import PATIENCE, QUERIES, Ledger, write
from celeriac.drivers.sqlite import SQLiteFile, translated
from celeriac.exceptions import BrokerRefused, BrokerUnavailable

#: Rows that one transaction writes, and that one reads.
_WRITTEN: Final = 500
_READ: Final = 5_000


def revoke(file: SQLiteFile, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
    """Remember revocations, judge what waits, and return the keys of that."""
    keys = list(dict.fromkeys(one.key for one in revocations))
    held: set[bytes] = set()
    for start in range(0, len(revocations), _WRITTEN):
        part = revocations[start : start + _WRITTEN]
        held |= write(file, partial(_remember, queue=queue, revocations=part, keep=keep))
    missing = set(keys) - held
    found = _search(file, queue, "ready", missing) if missing else set[bytes]()
    if missing - found:
        found |= _search(file, queue, "delayed", missing - found)
    if keys:
        write(file, lambda ledger: ledger.run("shorten", queue, queue, REMEMBERED))
    return [key for key in keys if key in found]


def ban(file: SQLiteFile, ban: bytes, keep: float) -> None:
    """Remember what workers read."""

    def work(ledger: Ledger) -> None:
        ledger.run("ban", ban, ledger.now + keep)
        ledger.run("shorten_bans", ledger.now, MOST_BANS)

    write(file, work)


def bans(file: SQLiteFile) -> list[bytes]:
    """What is remembered so."""

    return [data for (data,) in _rows(file, "bans", (clock.now(),))]


def find(file: SQLiteFile, queue: str, part: bytes) -> Iterator[bytes]:
    """The messages that contain these bytes: those that wait, then those that are held."""
    for query in ("find_ready", "find_delayed"):
        before: tuple[Any, Any] | None = (float("inf"), 0)
        while before is not None:
            rows = _rows(file, query, (part, queue, *before, _READ))
            yield from (data for _, _, data in rows if data is not None)
            before = rows[-1][:2] if len(rows) == _READ else None
    yield from (data for (data,) in _rows(file, "find_held", (queue, part)))


def _remember(ledger: Ledger, queue: str, revocations: Sequence[Revocation], keep: float) -> set[bytes]:
    """Returns the keys of all that is in a holding at this moment."""
    until = ledger.now + keep
    rows = [(queue, one.key, until, int(one.terminate), one.signal) for one in revocations]
    ledger.run_many("remember", rows)
    return {key for (key,) in ledger.run("held_keys", queue)}


def _search(file: SQLiteFile, queue: str, table: str, wanted: set[bytes]) -> set[bytes]:
    """Judge those of the wanted that are in this table, reading it from its end. Returns the keys of these."""
    found: set[bytes] = set()
    before: tuple[Any, Any] = (float("inf"), 0)
    while len(found) < len(wanted):
        rows = _rows(file, f"some_{table}", (queue, *before, _READ))
        hits = [row for row in rows if row[2] in wanted and (row[3] is None or row[3].startswith(REVOKED))]
        for start in range(0, len(hits), _WRITTEN):
            part = hits[start : start + _WRITTEN]
            found |= write(file, partial(_judge, queue=queue, table=table, rows=part))
        if len(rows) < _READ:
            break
        before = rows[-1][:2]
    return found


def _rows(file: SQLiteFile, query: str, values: tuple[Any, ...]) -> list[Any]:
    def work(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute(QUERIES[query], values).fetchall()

    with translated(file, BrokerUnavailable, BrokerRefused):
        return file.read(work, PATIENCE)


def _judge(ledger: Ledger, queue: str, table: str, rows: Sequence[Any]) -> set[bytes]:
    """Move rows to the front that are still there. One that was taken meanwhile was caught by its take."""
    judged: set[bytes] = set()
    for order, position, key, _ in rows:
        for there, data, history, verdict in ledger.run(f"take_out_{table}", queue, order, position):
            ledger.come_first(queue, there, data, history, verdict or REVOKED)
            judged.add(key)
            if table == "delayed":
                ledger.moves(queue).delayed -= 1
                ledger.moves(queue).ready += 1
    return judged
