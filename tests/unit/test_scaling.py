"""How many processes a worker that scales itself decides to have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import pools
from celeriac.supervisor import scaling
from celeriac.supervisor.scaling import Bounds, Load, Scale

STEP = 0.5
BOUNDS = Bounds(least=2, most=10, keepalive=30.0)


class Simulated:
    """Looks at a worker whose processes are up as soon as they are wanted."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.now = 100.0
        self.done = 0
        self.scale = scaling.begin(bounds, self.now)

    def see(self, busy: int, backlog: int | None = 0, rate: float = 0.0, **more) -> int:
        self.now += STEP
        self.done += round(rate * STEP)
        load = Load(
            busy=busy, taking=self.scale.wanted, is_idle=busy < self.scale.wanted and not backlog,
            done=self.done, backlog=backlog, **more,
        )  # fmt: skip
        self.scale = scaling.decide(self.scale, load, self.bounds, self.now)
        return self.scale.wanted

    def see_for(self, seconds: float, *seen, **more) -> list[int]:
        return [self.see(*seen, **more) for _ in range(round(seconds / STEP))]


def test_a_worker_begins_with_the_least():
    assert Simulated().scale.wanted == 2


def test_work_that_waits_doubles_the_processes_up_to_the_most():
    worker = Simulated()
    assert [worker.see(worker.scale.wanted, 500) for _ in range(6)] == [2, 4, 8, 10, 10, 10]


def test_no_more_are_started_than_there_is_work_for():
    worker = Simulated()
    assert [worker.see(2, 1), worker.see(2, 1), worker.see(3, 0)] == [2, 3, 3]


def test_what_waits_once_is_no_backlog():
    worker = Simulated()
    assert [worker.see(2, 5), worker.see(2, 0), worker.see(2, 5), worker.see(2, 0)] == [2, 2, 2, 2]


def test_a_backlog_that_is_gone_within_a_second_starts_nothing():
    worker = Simulated()
    assert set(worker.see_for(20, 2, 900, rate=1000)) == {2}
    assert max(worker.see_for(3, 2, 1100, rate=1000)) == 10


def test_nothing_is_started_beside_an_idle_process_or_without_knowing_what_waits():
    worker = Simulated()
    assert set(worker.see_for(20, 2, None)) == {2}
    load = Load(busy=1, taking=2, is_idle=True, done=0, backlog=50)
    idle = Scale(wanted=2, since=0.0, at=0.0, is_behind=True)
    assert scaling.decide(idle, load, BOUNDS, STEP).wanted == 2


def test_nothing_more_is_wanted_while_the_last_ones_are_starting():
    behind = Scale(wanted=4, since=0.0, at=0.0, is_behind=True)
    load = Load(busy=2, taking=2, is_idle=False, done=0, backlog=50)
    assert scaling.decide(behind, load, BOUNDS, STEP).wanted == 4


def test_what_was_not_needed_for_the_time_goes_and_what_was_stays():
    worker = Simulated()
    worker.see_for(5, 10, 100)
    assert worker.scale.wanted == 10
    # Five at once, now and then.
    for _ in range(3):
        worker.see(5)
        worker.see_for(10, 1)
    assert worker.scale.wanted == 5
    worker.see_for(61, 0)
    assert worker.scale.wanted == 2


def test_slots_are_counted_by_the_process():
    worker = Simulated(Bounds(least=1, most=4, slots=100))
    assert worker.see_for(2, 90, 10) == [1, 1, 1, 1]
    worker.see_for(2, 100, 150)
    assert worker.scale.wanted == 3
    worker.see_for(61, 120)
    assert worker.scale.wanted == 2


def test_memory_bounds_growth_and_its_want_ends_processes_one_by_one():
    worker = Simulated()
    worker.see_for(5, 10, 100, room=3)
    assert worker.scale.wanted == 10
    cramped = Simulated()
    assert [cramped.see(cramped.scale.wanted, 500, room=1) for _ in range(4)] == [2, 3, 4, 5]
    assert set(cramped.see_for(10, 5, 500, room=0)) == {5}
    assert cramped.see_for(20, 5, 500, room=-1)[-1] == 2
    assert cramped.see_for(20, 5, 500, room=-1)[-1] == 2


@given(
    busy=st.integers(0, 40), backlog=st.integers(0, 10_000), rate=st.floats(0, 10_000),
    least=st.integers(1, 5), more=st.integers(0, 20), slots=st.sampled_from([1, 10]),
)  # fmt: skip
def test_a_steady_load_comes_to_rest_within_the_bounds(busy, backlog, rate, least, more, slots):
    worker = Simulated(Bounds(least=least, most=least + more, slots=slots, keepalive=5.0))
    seen = worker.see_for(30, busy, backlog, rate=rate)
    assert all(least <= wanted <= least + more for wanted in seen)
    assert len(set(seen[len(seen) // 2 :])) == 1


@pytest.mark.parametrize(
    ("pool", "concurrency", "expected"),
    [
        ("prefork", None, (3, 10, 1)),
        ("prefork", 4, (3, 10, 1)),
        ("solo", None, (3, 10, 1)),
        ("gevent", None, (1, 1, 10)),
        ("gevent", 5, (1, 2, 5)),
        ("threads", 2, (2, 5, 2)),
        ("asyncio", 100, (1, 1, 100)),
    ],
)
def test_what_may_run_at_once_becomes_processes_and_slots(pool, concurrency, expected):
    assert pools.range_of(pool, concurrency, 3, 10) == expected


def test_a_least_of_none_is_one_process_that_listens():
    assert pools.range_of("prefork", None, 0, 10) == (1, 10, 1)
