"""How deliveries of an SQLite file end: all of one call in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from celeriac.brokers.contract import Ack, Bury, Delivery, PutBack, Release, Replace, Settlement
from celeriac.brokers.sqlite_ledger import Held, Ledger, are_transient, write
from celeriac.drivers.sqlite import SQLiteFile
from celeriac.drivers.sqlite_joins import arrive, end_joins, open_join
from celeriac.message import is_transient


def settle(file: SQLiteFile, settlements: Sequence[Settlement]) -> list[Delivery]:
    """End deliveries, in order. Returns those refused because they were no longer ours."""
    if not settlements:
        return []
    return write(
        file,
        lambda ledger: [one.delivery for one in settlements if not _settle_one(ledger, one)],
        synced=not all(map(_is_transient, settlements)),
    )


def _is_transient(settlement: Settlement) -> bool:
    """Whether a power cut may undo this: nothing but transient messages comes, goes or is given back."""
    if settlement.records or settlement.arrivals or settlement.joins or settlement.opens:
        return False
    match settlement.action:
        case Ack() | Release():
            sends = settlement.sends
        case Replace(successor=successor):
            sends = [*settlement.sends, successor]
        case _:
            return False
    return are_transient(sends) and is_transient(settlement.delivery.data)


def _settle_one(ledger: Ledger, settlement: Settlement) -> bool:
    delivery, action = settlement.delivery, settlement.action
    rows = ledger.run("take_running", delivery.queue, delivery.fence, delivery.owner)
    if not rows:
        return False
    held = Held(*rows[0])
    ledger.moves(delivery.queue).running -= 1
    if settlement.records:
        ledger.file.put_records(ledger.connection, settlement.records)
    if settlement.sends:
        ledger.send(settlement.sends)
    for join in settlement.opens:
        open_join(ledger.connection, join)
    if settlement.arrivals:
        ledger.send(arrive(ledger.connection, settlement.arrivals, again=False))
    if settlement.joins:
        end_joins(ledger.connection, settlement.joins)
    match action:
        case Ack():
            return True
        case Release():
            ledger.put_back(delivery.queue, held)
        case Replace(successor=successor):
            ledger.send([successor])
        case PutBack(data=data, due_at=due_at):
            ledger.delay(delivery.queue, held._replace(data=data), due_at)
        case Bury(reason=reason, detail=detail):
            ledger.bury(delivery.queue, held, reason, detail)
        case _:
            assert_never(action)
    return True
