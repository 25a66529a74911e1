"""Messages of a PostgreSQL database on their way to another broker, and from another one. See `abilities.Movable`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.abilities import CRATE_BYTES, Crate, Parcel, plain_priority
from celeriac.message import is_transient

#: Calls a verb.
_Call = Callable[..., list[tuple[Any, ...]]]


def pack(call: _Call, queue: str, target: str, limit: int) -> Crate | None:
    rows = call(verbs.PACK, queue, target, os.urandom(16), limit, CRATE_BYTES)
    if not rows:
        return None
    target, series, number = rows[0][:3]
    return Crate(queue, target, series, number, [_parcel(*row[3:]) for row in rows])


def unpack(call: _Call, crate: Crate) -> bool:
    parcels = crate.parcels
    casualties = [(place, one) for place, parcel in enumerate(parcels, 1) for one in parcel.casualties]
    [(is_new,)] = call(
        verbs.UNPACK, crate.queue, crate.series, crate.number,
        [1 - 2 * one.priority for one in parcels], [one.due_at for one in parcels], [one.data for one in parcels],
        [None if one.verdict is None else verbs.raw(one.verdict) for one in parcels],
        [one.died_at for one in parcels], [one.key for one in parcels],
        [verbs.raw(one.reason) for one in parcels], [verbs.raw(one.detail) for one in parcels],
        [place for place, _ in casualties], [verbs.write_casualty(one) for _, one in casualties],
        verbs.which([is_transient(one.data) for one in parcels]),
    )  # fmt: skip
    return bool(is_new)


def _parcel(lane: int, due: float | None, data: bytes, history: list[bytes], *rest: Any) -> Parcel:
    verdict, died_at, key, reason, detail = rest
    return Parcel(
        data=data,
        priority=plain_priority((1 - lane) // 2),
        due_at=due,
        verdict=None if verdict is None else verbs.text(verdict),
        casualties=tuple(verbs.read_casualty(one) for one in history),
        died_at=died_at,
        key=key or b"",
        reason=verbs.text(reason or b""),
        detail=verbs.text(detail or b""),
    )
