"""Points in time and durations are read from whatever people write; backoff grows, is capped and spreads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import clock


def test_now_is_the_present_in_utc() -> None:
    found = clock.now_datetime()
    assert found.utcoffset() == timedelta(0)
    assert abs(found.timestamp() - clock.now()) < 5


def test_the_measuring_clock_never_goes_back() -> None:
    readings = [clock.monotonic() for _ in range(1_000)]
    assert readings == sorted(readings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), (2.5, 2.5), (timedelta(minutes=1), 60.0), (timedelta(microseconds=-1), -1e-06), (0, 0.0)],
)
def test_a_duration_is_a_number_or_a_timedelta(value: float | timedelta, expected: float) -> None:
    assert clock.seconds(value) == expected
    assert isinstance(clock.seconds(value), float)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05", "2026-01-02T05:04:05+02:00", 1767323045, 1767323045.0,
        datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))),
    ],
    ids=str,
)  # fmt: skip
def test_a_point_in_time_may_be_written_in_many_ways(moment: datetime | float | str) -> None:
    assert clock.timestamp(moment) == 1767323045.0


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "12:00"])
def test_what_is_not_a_point_in_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Invalid isoformat|month must be"):
        clock.timestamp(text)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2900, 1, 1), timezones=st.just(UTC)))
def test_a_moment_survives_the_way_through_a_timestamp(moment: datetime) -> None:
    assert abs(clock.moment(clock.timestamp(moment)) - moment) <= timedelta(microseconds=64)


def test_backoff_doubles_up_to_its_maximum() -> None:
    assert [clock.backoff(attempt, 2.0, 60.0) for attempt in range(7)] == [2, 4, 8, 16, 32, 60, 60]


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.floats(0, 1e6))
def test_backoff_is_never_more_than_its_maximum(attempt: int, factor: float, maximum: float) -> None:
    assert 0 <= clock.backoff(attempt, factor, maximum) <= maximum
    assert 0 <= clock.backoff(attempt, factor, maximum, jitter=True) <= maximum


def test_jitter_spreads_over_the_whole_range() -> None:
    drawn = [clock.backoff(3, 1.0, 60.0, jitter=True) for _ in range(2_000)]
    assert min(drawn) < 0.5
    assert max(drawn) > 7.5
    assert 3.5 < sum(drawn) / len(drawn) < 4.5
