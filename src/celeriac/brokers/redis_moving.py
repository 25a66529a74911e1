"""Messages of a Redis server on their way to another broker, and from another one. See `abilities.Movable`.

The scripts are in `redis_moving.lua`, which says what the five words of a message are. A suspect's priority is not kept
on Redis: elsewhere it has priority 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from celeriac.brokers.abilities import CRATE_BYTES, Crate, Parcel
from celeriac.brokers.redis_keys import Header, dead_letter, read_casualties

_WORDS: Final = 5
_SUSPECT: Final = "s"
_DEAD: Final = "x"

#: Runs a script on a queue.
_Run = Callable[..., Any]


def pack(run: _Run, queue: str, target: str, limit: int) -> Crate | None:
    while True:
        reply = run("pack", queue, target, os.urandom(16), limit, CRATE_BYTES)
        if not reply:
            return None
        if len(reply) > 1:
            break
    target, series, number = reply[0].decode(), bytes(reply[1]), int(reply[2])
    parcels = [_read(queue, reply[i : i + _WORDS]) for i in range(3, len(reply), _WORDS)]
    return Crate(queue, target, series, number, parcels)


def words(crate: Crate) -> list[Any]:
    """What the script `unpack` takes."""
    return [crate.series, crate.number, *(word for parcel in crate.parcels for word in _written(parcel))]


def _read(queue: str, words: Sequence[bytes]) -> Parcel:
    mark, due_or_key, data, casualties, verdict = words
    if mark.decode() == _DEAD:
        letter = dead_letter(queue, due_or_key, data)
        known = (
            None,
            None,
            tuple(letter.casualties),
            letter.died_at,
            letter.key,
            letter.reason,
            letter.detail,
        )
        return Parcel(letter.data, _priority(data[:1]), *known)
    return Parcel(
        data=bytes(data),
        priority=_priority(mark),
        due_at=float(due_or_key) / 1000 if due_or_key else None,
        verdict=verdict.decode(errors="replace") if verdict else None,
        casualties=tuple(read_casualties(casualties.decode(errors="replace"))) if casualties else (),
    )


def _priority(mark: bytes) -> int:
    return int(mark) if mark.isdigit() else 0


def _written(parcel: Parcel) -> tuple[Any, ...]:
    casualties = msgspec.json.encode(parcel.casualties) if parcel.casualties else b""
    if parcel.died_at is not None:
        header = msgspec.json.encode(Header(parcel.reason, parcel.detail, parcel.died_at))
        value = b"%d%b\n%b\n%b" % (parcel.priority, header, casualties or b"[]", parcel.data)
        return _DEAD, parcel.key, value, "", ""
    is_suspect = parcel.casualties or parcel.verdict is not None
    due = "" if parcel.due_at is None else round(parcel.due_at * 1000)
    mark = _SUSPECT if is_suspect else parcel.priority
    return mark, due, parcel.data, casualties, parcel.verdict or ""
