"""Revocations in PostgreSQL: remembered first, then looked for in short transactions.

The tables have no index by key, which would cost every message on its way in and out: whoever revokes has the server
read what waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from celeriac.brokers import postgres_verbs as verbs
from celeriac.brokers.contract import MOST_BANS, REMEMBERED, Revocation
from celeriac.drivers.postgres_wire import Verb

#: A call of the broker's.
Call = Callable[..., list[tuple[Any, ...]]]

#: Revocations that one call stores, and messages that one call reads.
_STORED: Final = 5_000
_READ: Final = 5_000
#: Before everything: behind the last lane, and behind the end of time.
_BEHIND_LANES: Final = 100
_BEHIND_TIME: Final = 9e12


def revoke(call: Call, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
    """Remember revocations, judge what waits, and return the keys of that."""
    if not revocations:
        return []
    for start in range(0, len(revocations), _STORED):
        part = revocations[start : start + _STORED]
        columns = [one.key for one in part], [one.terminate for one in part], [one.signal for one in part]
        call(verbs.REMEMBER, queue, *columns, keep)
    [(held,)] = call(verbs.HELD_KEYS, queue)
    keys = list(dict.fromkeys(one.key for one in revocations))
    missing = set(keys).difference(held)
    found = _judge(call, verbs.JUDGE_READY, queue, _BEHIND_LANES, missing)
    found |= _judge(call, verbs.JUDGE_DELAYED, queue, _BEHIND_TIME, missing - found)
    call(verbs.SHORTEN, queue, REMEMBERED)
    return [key for key in keys if key in found]


def _judge(call: Call, verb: Verb, queue: str, order: float, wanted: set[bytes]) -> set[bytes]:
    """Judge those of the wanted that wait, reading from the end. Returns their keys."""
    found: set[bytes] = set()
    place = 0
    while wanted - found:
        [(judged, seen, order, place)] = call(verb, queue, order, place, _READ, list(wanted - found))
        found.update(judged)
        if seen < _READ:
            break
    return found


def ban(call: Call, data: bytes, keep: float) -> None:
    """Remember what workers read."""
    call(verbs.BAN, data, keep, MOST_BANS)


def find(call: Call, queue: str, part: bytes) -> Iterator[bytes]:
    """The messages that contain these bytes: those that wait, then those that are held."""
    for verb, order in ((verbs.FIND_READY, _BEHIND_LANES), (verbs.FIND_DELAYED, _BEHIND_TIME)):
        place = 0
        while rows := call(verb, queue, order, place, _READ, part):
            yield from (data for _, _, data in rows if data is not None)
            if len(rows) < _READ:
                break
            order, place, _ = rows[-1]
    yield from (data for (data,) in call(verbs.FIND_HELD, queue, part))
