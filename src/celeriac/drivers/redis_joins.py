"""Joins on Redis: what `redis_joins.lua` needs to know of one, for the result store and for settlements."""

from __future__ import annotations

from celeriac import clock
from celeriac.brokers.contract import JOIN_TTL, Join


def opening(join: Join) -> tuple[int | str | bytes, ...]:
    """The arguments of `open_join` behind the join's name."""
    sent = join.outgoing
    return (
        "" if join.size is None else join.size,
        sent.queue,
        sent.priority,
        delay_text(sent.due_at),
        "" if join.delay is None else int(join.delay * 1000),
        sent.data,
        int(JOIN_TTL * 1000),
    )


def delay_text(due_at: float | None) -> int | str:
    """When a message is due, as scripts want it: milliseconds from now, or nothing.

    From now, because it was reckoned by the clock of this machine, which may differ from the server's.
    """
    return "" if due_at is None else max(0, int((due_at - clock.now()) * 1000))
