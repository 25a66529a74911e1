"""Time and delays: the only module that reads a clock.

`now()` is wall time, for points in time that other machines see (eta, expiry, records).
`monotonic()` is for measuring: it never jumps. Brokers that have a server use the server's clock
for leases and schedules, so that a worker with a wrong clock cannot take what is not due.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

now: Callable[[], float] = time.time
monotonic = time.monotonic
sleep = time.sleep


def now_datetime() -> datetime:
    """The present as an aware datetime in UTC."""
    return moment(now())


def seconds(value: float | timedelta) -> float:
    """A duration in seconds, from a number or a timedelta."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def timestamp(moment: datetime | float | str) -> float:
    """Seconds since the epoch, from an aware datetime, a naive one (taken as UTC), ISO text or a number."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)


def moment(stamp: float) -> datetime:
    """The aware datetime (UTC) of a timestamp."""
    return datetime.fromtimestamp(stamp, UTC)


def chance() -> float:
    """A number between 0 and 1, by the system's source: it is not repeated after a fork, nor seeded by user code."""
    return int.from_bytes(os.urandom(7), "big") / (1 << 56)


def backoff(attempt: int, factor: float, maximum: float, *, jitter: bool = False) -> float:
    """Seconds to wait before attempt number `attempt` (0 is the first retry): exponential, capped.

    With jitter, a uniform draw between nothing and that bound ("full jitter"), which keeps many
    clients that failed together from coming back together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    bound = min(maximum, factor * 2.0 ** min(attempt, 62))
    return bound * chance() if jitter else bound
