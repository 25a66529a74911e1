"""How many processes a worker that scales itself should have: decided here as a function of values.

It grows when work waits that the present processes would not have begun within a second, twofold at each look, for as
long as memory has room. It shrinks to what was busy at the same time, at most, in all of `keepalive` seconds. So a
steady load moves nothing, and a short burst is not paid for with processes that start when it is over.

Values only: no process, no clock, no file.
"""

from __future__ import annotations

import msgspec

#: Work that the present processes will begin within so many seconds is no reason to start others.
PATIENCE = 1.0
#: Where memory is short, the next process is told to stop after so many seconds: the last one may still be ending.
RELIEF = 5.0


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of `slots` each, from `least` to `most`; `keepalive`: seconds until one that is not needed goes."""

    least: int
    most: int
    slots: int = 1
    keepalive: float = 30.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen at one look.

    `busy`: runs at this moment. `taking`: processes that take messages. `is_idle`: one of those has had nothing to do
    since the last look. `done`: runs that have ended in this worker's life. `backlog`: messages that wait in its
    queues; None: not known. `room`: how many more processes there is memory for, negative where it is short already;
    None: not known.
    """

    busy: int
    taking: int
    is_idle: bool
    done: int
    backlog: int | None = None
    room: int | None = None


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How many processes are `wanted`, and what that was decided from.

    `peak`: the most processes that were busy at once since `since`, when that began to be counted. `is_behind`: whether
    too much waited at the last look, which was `at`, with `done` runs. Times are monotonic.
    """

    wanted: int
    since: float
    at: float
    peak: int = 0
    done: int = 0
    is_behind: bool = False


def begin(bounds: Bounds, now: float) -> Scale:
    """A worker begins with as few as may be."""
    return Scale(wanted=bounds.least, since=now, at=now)


def decide(scale: Scale, load: Load, bounds: Bounds, now: float) -> Scale:
    """How many are wanted from now on."""
    is_behind = _is_behind(scale, load, now)
    peak = max(scale.peak, -(-load.busy // bounds.slots))
    wanted, since = scale.wanted, scale.since
    if load.room is not None and load.room < 0:
        # What was started must end sooner or later; what more would end is not for us to say.
        if now >= scale.since + RELIEF:
            wanted -= 1
    elif is_behind:
        since, peak = now, 0
        # Seen once, it may be what waits for a take that is on its way.
        if scale.is_behind and load.taking >= wanted:
            needed = -(-(load.busy + (load.backlog or 0)) // bounds.slots)
            more = min(wanted, max(0, needed - wanted))
            wanted += more if load.room is None else min(more, load.room)
    elif now >= scale.since + bounds.keepalive:
        wanted, since, peak = min(wanted, peak), now, 0
    wanted = min(bounds.most, max(bounds.least, wanted))
    if wanted != scale.wanted:
        since, peak = now, 0
    return Scale(wanted=wanted, since=since, at=now, peak=peak, done=load.done, is_behind=is_behind)


def _is_behind(scale: Scale, load: Load, now: float) -> bool:
    """Whether more waits than is begun within `PATIENCE` at the rate of the time since the last look."""
    if load.is_idle or not load.backlog:
        return False
    rate = (load.done - scale.done) / max(now - scale.at, 1e-3)
    return load.backlog > rate * PATIENCE
