"""Revocations on Redis: remembered first, then looked for in steps that hold the server up for few milliseconds each.

What is taken after the first step is looked up by the take itself, so that nothing depends on how the search goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import REMEMBERED, Revocation

#: Keys in one call of a script.
_PART: Final = 1000
#: Messages that one step looks at.
_STEP: Final = 1000
#: Where messages wait: the ready lists by class, and the delayed ones.
_WAITING: Final = tuple(letter.encode() for letter in "s9876543210d")
#: What stands for a revocation that ends no run.
_MILD: Final = b"-"

#: Runs a script on a queue.
_Run = Callable[..., Any]


def revoke(run: _Run, queue: str, revocations: Sequence[Revocation], keep: float) -> list[bytes]:
    """Remember revocations, judge what waits, and return the keys of that."""
    keys = list(dict.fromkeys(one.key for one in revocations))
    count, places = 0, list[bytes]()
    for part in _parts(revocations):
        words = [word for one in part for word in (one.key, one.signal if one.terminate else _MILD)]
        count, *places = run("revoke", queue, int(keep * 1000), *words)
    missing = set(keys)
    if places:
        missing -= set(run("held", queue))
        held = set(keys) - missing
        _search(run, queue, places, missing)
        for part in _parts(sorted(missing)):
            missing.difference_update(run("judged", queue, *part))
        missing |= held
    while count > REMEMBERED:
        count = run("shorten", queue, REMEMBERED)
    return [key for key in keys if key not in missing]


def revoked(run: _Run, queue: str) -> list[Revocation]:
    """What is remembered. Those that came in one call come as the server sorts them."""
    words = run("revoked", queue)
    return [
        Revocation(words[i], words[i + 1] != _MILD, words[i + 1].decode().removeprefix("-"))
        for i in range(0, len(words), 2)
    ]


def find(run: _Run, queue: str, part: bytes) -> Iterator[bytes]:
    """The messages that contain these bytes: those that wait, then those that are held."""
    for place in (*_WAITING, b"h"):
        cursor = b""
        while True:
            began = clock.monotonic()
            cursor, *found = run("find", queue, place, cursor, _STEP, part)
            yield from found
            if not cursor:
                break
            clock.sleep(clock.monotonic() - began)


def _search(run: _Run, queue: str, places: Sequence[bytes], missing: set[bytes]) -> None:
    """Take what is found out of `missing`. One step in each place in turn: the newest of all are seen first."""
    cursors = dict.fromkeys(places, b"")
    while cursors and missing:
        for place, cursor in list(cursors.items()):
            began = clock.monotonic()
            cursors[place], *found = run("search", queue, place, cursor, _STEP)
            missing.difference_update(found)
            if not missing:
                return
            if not cursors[place]:
                del cursors[place]
            # As long as it took: others have at least half of the server.
            clock.sleep(clock.monotonic() - began)


def _parts(words: Sequence[Any]) -> list[Any]:
    return [words[start : start + _PART] for start in range(0, len(words), _PART)]
