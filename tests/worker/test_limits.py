"""Time limits in every pool, for every way of taking one's time; and the worker goes on behind them."""

from __future__ import annotations

import time

import pytest
from harness import WAIT, Site, wait_until

from celeriac import states
from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

POOLS = (("prefork", "1"), ("solo", "1"), ("threads", "2"), ("gevent", "2"), ("asyncio", "2"))
#: Limits hold to half a second; a loaded machine is given more before a test fails.
LENIENT = 4.0


@pytest.fixture(params=POOLS, ids=[pool for pool, _ in POOLS])
def pool(request: pytest.FixtureRequest, sqlite_site: Site) -> Site:
    """A site whose worker has this pool."""
    name, concurrency = request.param
    sqlite_site.worker("-P", name, "-c", concurrency)
    return sqlite_site


@pytest.mark.parametrize(
    "name", ["sleeps", "spins", "waits_for_program", "catches_all", "keeps_the_interpreter"]
)
def test_a_hard_limit_ends_any_run(pool: Site, name: str):
    sent_at = time.monotonic()
    result = pool.call(name, 8, time_limit=0.6)
    started = pool.wait_note(result, "start")["at"]
    with pytest.raises(TimeLimitExceeded, match=r"0\.6 s"):
        result.get(timeout=WAIT)
    assert result.state == states.FAILURE
    after = pool.send("add", 1)
    assert after.get(timeout=WAIT) == 2
    ended_by = pool.notes(after)[0]["at"]
    # The limit counts from a moment between the two: the run has begun before it notes so.
    assert ended_by - sent_at >= 0.6 and ended_by - started < 0.6 + 0.5 + LENIENT
    pool.wait_empty()
    assert len(pool.notes(result, "start")) == 1 and pool.stats().dead == 0
    pool.workers[0].wait_log(f"Hard time limit (0.6s) exceeded for workload.{name}[{result.id}]")


@pytest.mark.parametrize("name", ["spins", "sleeps"])
def test_a_soft_limit_raises_in_the_run(pool: Site, name: str):
    # A thread that sleeps in C hears of it when it wakes.
    result = pool.call(name, 2.0, soft_time_limit=0.4)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=WAIT)
    assert pool.send("add", 1).get(timeout=WAIT) == 2


def test_a_task_may_clean_up_at_its_soft_limit(pool: Site):
    sent_at = time.monotonic()
    result = pool.call("cleans_up", 20, soft_time_limit=0.4, time_limit=15)
    started = pool.wait_note(result, "start")["at"]
    assert result.get(timeout=WAIT) == "cleaned up"
    caught = pool.notes(result, "caught")[0]["at"]
    assert caught - sent_at >= 0.4 and caught - started < 0.4 + 0.5 + LENIENT


def test_a_run_in_time_hears_nothing_of_its_limits(pool: Site):
    results = [pool.call("cleans_up", 0.05, soft_time_limit=5, time_limit=10) for _ in range(3)]
    assert [result.get(timeout=WAIT) for result in results] == ["not told"] * 3


def test_neighbours_of_an_overrun_run_once(site: Site):
    site.worker("-c", "1", worker_prefetch_multiplier=10)
    overrun = site.call("sleeps", 30, time_limit=0.5)
    others = [site.send("add", n) for n in range(5)]
    with pytest.raises(TimeLimitExceeded):
        overrun.get(timeout=WAIT)
    assert [result.get(timeout=WAIT) for result in others] == [1, 2, 3, 4, 5]
    assert all(len(site.notes(result)) == 1 for result in others)
    site.wait_empty()
    assert site.stats().dead == 0


def test_other_threads_finish_when_one_overruns(site: Site):
    worker = site.worker("-P", "threads", "-c", "4")
    others = [site.send("sleeps", 1.5) for _ in range(2)]
    for result in others:
        site.wait_note(result, "start")
    overrun = site.call("sleeps", 60, time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        overrun.get(timeout=WAIT)
    assert [result.get(timeout=WAIT) for result in others] == ["slept"] * 2
    assert all(len(site.notes(result, "start")) == 1 for result in others)
    # The lost thread sleeps on; its process is replaced, and ends when the others have.
    old = site.notes(overrun, "start")[0]["pid"]
    worker.wait_log(f"(pid {old}) is recycled")
    assert site.call("about").get(timeout=WAIT)["pid"] != old
    wait_until(lambda: old not in worker.children(), worker.log)
    assert "exited prematurely" not in worker.log()


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ("threads", "keeps_the_interpreter"),
        ("gevent", "keeps_the_interpreter"),
        ("gevent", "spins"),
        ("asyncio", "keeps_the_interpreter"),
    ],
)
def test_neighbours_run_again_where_one_lets_none_come_round(site: Site, pool: str, name: str):
    site.worker("-P", pool, "-c", "2")
    neighbour = site.send("holds", "gate")
    site.wait_note(neighbour, "start")
    overrun = site.call(name, 8, time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        overrun.get(timeout=WAIT)
    again = site.wait_note(neighbour, "start", 2)
    assert again["crashes"] == 0  # nobody's fault but the other's
    site.open("gate")
    assert neighbour.get(timeout=WAIT) == again["pid"]
    site.wait_empty()
    assert len(site.notes(overrun, "start")) == 1 and site.stats().dead == 0


def test_limits_of_the_worker_hold_for_tasks_that_have_none(site: Site):
    site.worker("-c", "1", "--time-limit", "0.5")
    with pytest.raises(TimeLimitExceeded):
        site.send("sleeps", 30).get(timeout=WAIT)


def test_a_hook_is_told_of_a_hard_limit(site: Site):
    site.worker("-c", "1")
    result = site.call("hooked", "die", time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=WAIT)
    wait_until(lambda: site.notes(result, "on_failure"), site.told)
    assert site.notes(result, "on_failure")[0]["error"] == "TimeLimitExceeded"
