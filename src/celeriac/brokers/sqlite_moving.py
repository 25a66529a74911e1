"""Messages of an SQLite file on their way to another broker, and from another one. See `abilities.Movable`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import msgspec

from celeriac.brokers.abilities import CRATE_BYTES, Crate, Parcel, plain_priority
from celeriac.brokers.contract import REVOKED
from celeriac.brokers.sqlite_ledger import FIRST, QUERIES, Ledger, casualties_of, write, write_history
from celeriac.drivers.sqlite import SQLiteFile

_write: Final = msgspec.msgpack.Encoder().encode
_read: Final = msgspec.msgpack.Decoder(list[Parcel]).decode


def pack(file: SQLiteFile, queue: str, target: str, limit: int) -> Crate | None:
    def work(ledger: Ledger) -> Crate | None:
        series, number = os.urandom(16), 0
        for series, number, last_target, parcels in ledger.run("crate", queue):
            if parcels is not None:
                return Crate(queue, last_target, series, number, _read(parcels))
        packed = _take_ready(ledger, queue, limit) or _take_delayed(ledger, queue, limit)
        packed = packed or _take_dead(ledger, queue, limit)
        if not packed:
            return None
        ledger.run("put_crate", queue, series, number + 1, target, _write(packed))
        return Crate(queue, target, series, number + 1, packed)

    return write(file, work)


def unpack(file: SQLiteFile, crate: Crate) -> bool:
    def work(ledger: Ledger) -> bool:
        row = (crate.series, crate.number)
        if not ledger.connection.execute(QUERIES["note_unpacked"], row).rowcount:
            return False
        moves = ledger.moves(crate.queue)
        moves.was_sent_to = 1
        for parcel, position in zip(crate.parcels, ledger.take_positions(len(crate.parcels)), strict=True):
            history = write_history(parcel.casualties) if parcel.casualties else None
            rest = (parcel.data, history, parcel.verdict)
            if parcel.died_at is not None:
                letter = (parcel.data, parcel.reason, parcel.detail, parcel.died_at, history)
                ledger.add_dead(crate.queue, parcel.key, (-parcel.priority, *letter))
            elif parcel.due_at is not None and parcel.due_at > ledger.now:
                ledger.run("add_delayed", crate.queue, parcel.due_at, position, -parcel.priority, *rest)
                moves.delayed += 1
            else:
                is_first = parcel.verdict is not None and parcel.verdict.startswith(REVOKED)
                ledger.run("add_ready", crate.queue, FIRST if is_first else -parcel.priority, position, *rest)
                moves.ready += 1
        return True

    return write(file, work)


def discard(file: SQLiteFile, crate: Crate) -> None:
    write(file, lambda ledger: ledger.run("discard_crate", crate.queue, crate.series, crate.number))


def _take_ready(ledger: Ledger, queue: str, limit: int) -> list[Parcel]:
    def parcel(row: Any) -> Parcel:
        urgency, _, _, data, history, verdict = row
        return Parcel(data, plain_priority(-urgency), None, verdict, tuple(casualties_of(history)))

    rows, parcels = _read_some(ledger.connection.execute(QUERIES["head"], (queue, limit)), parcel)
    ledger.run_many("delete_ready", [(queue, *row[:2]) for row in rows])
    ledger.moves(queue).ready -= len(rows)
    return parcels


def _take_delayed(ledger: Ledger, queue: str, limit: int) -> list[Parcel]:
    def parcel(row: Any) -> Parcel:
        due_at, _, urgency, data, history, verdict = row
        return Parcel(data, plain_priority(-urgency), due_at, verdict, tuple(casualties_of(history)))

    rows, parcels = _read_some(
        ledger.connection.execute(QUERIES["due"], (queue, float("inf"), limit)), parcel
    )
    ledger.run_many("delete_delayed", [(queue, *row[:2]) for row in rows])
    ledger.moves(queue).delayed -= len(rows)
    return parcels


def _take_dead(ledger: Ledger, queue: str, limit: int) -> list[Parcel]:
    def parcel(row: Any) -> Parcel:
        _, urgency, key, reason, detail, died_at, data, history = row
        known = (None, None, tuple(casualties_of(history)), died_at, key, reason, detail)
        return Parcel(data, plain_priority(-urgency), *known)

    rows, parcels = _read_some(ledger.connection.execute(QUERIES["oldest_dead"], (queue, limit)), parcel)
    if rows:
        ledger.run("evict_dead", queue, rows[-1][0])
        ledger.moves(queue).dead -= len(rows)
    return parcels


def _read_some(
    cursor: sqlite3.Cursor, parcel: Callable[[Any], Parcel]
) -> tuple[list[tuple[Any, ...]], list[Parcel]]:
    """As many rows as fit into a crate, and what they become."""
    rows: list[tuple[Any, ...]] = []
    parcels: list[Parcel] = []
    size = 0
    for row in cursor:
        rows.append(row)
        parcels.append(parcel(row))
        size += len(parcels[-1].data)
        if size >= CRATE_BYTES:
            break
    cursor.close()
    return rows, parcels
