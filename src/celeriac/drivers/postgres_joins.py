"""Joins in PostgreSQL: what the server's functions need to know of them, for the result store and for settlements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from celeriac import clock
from celeriac.brokers.contract import JOIN_TTL, Join

#: The types of what `opening` gives.
OPENING: Final = "byteses ints texts ints floats floats byteses float"


def opening(joins: Sequence[Join]) -> list[Any]:
    """The arguments of `open_joins`."""
    sent = [one.outgoing for one in joins]
    return [
        [one.key for one in joins],
        [one.size for one in joins],
        [one.queue for one in sent],
        [one.priority for one in sent],
        [delay(one.due_at) for one in sent],
        [one.delay for one in joins],
        [one.data for one in sent],
        JOIN_TTL,
    ]


def delay(due_at: float | None) -> float | None:
    """When something is due, in seconds from now: it was reckoned by the clock of this machine, not by the server's."""
    return None if due_at is None else due_at - clock.now()
