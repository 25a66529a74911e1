"""Tasks that are coroutines, in every pool: limits, endings, contexts; and the asyncio pool with all its tasks."""

from __future__ import annotations

import time

import pytest
from harness import WAIT, Site, python_path, wait_until

from celeriac import states
from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

POOLS = ("prefork", "solo", "threads", "gevent", "asyncio", "asyncio without uvloop")
#: Limits hold to half a second; a loaded machine is given more before a test fails.
LENIENT = 4.0
#: What runs that are revoked have to end by themselves (seconds).
GRACE = 0.5


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, sqlite_site: Site) -> Site:
    """A site whose worker has this pool."""
    name, _, without = request.param.partition(" without ")
    environ = {}
    if without:
        missing = sqlite_site.folder / "missing"
        missing.mkdir()
        (missing / f"{without}.py").write_text(f"raise ModuleNotFoundError('no {without}', name='{without}')")
        environ["PYTHONPATH"] = python_path(missing)
    sqlite_site.worker("-P", name, "-c", "1", environ=environ, worker_revoke_grace=GRACE)
    return sqlite_site


@pytest.fixture
def asyncio_site(sqlite_site: Site) -> Site:
    """A site whose worker awaits."""
    sqlite_site.worker("-P", "asyncio", "-c", "4")
    return sqlite_site


def test_a_soft_limit_is_raised_where_a_coroutine_waits(pool: Site):
    sent_at = time.monotonic()
    cleaned = pool.call("awaits_and_cleans_up", 20, soft_time_limit=0.4, time_limit=15)
    assert cleaned.get(timeout=WAIT) == "cleaned up"
    begun, caught = pool.notes(cleaned)
    # The limit counts from a moment between the two: the run has begun before it notes so.
    assert caught["at"] - sent_at >= 0.4
    assert caught["at"] - begun["at"] < 0.4 + 0.5 + LENIENT
    left = pool.call("awaits_long", 20, soft_time_limit=0.4)
    with pytest.raises(SoftTimeLimitExceeded):
        left.get(timeout=WAIT)
    assert len(pool.notes(left, "left")) == 1
    # Nothing of it is left on the loop that the next one gets.
    assert pool.send("sums_later", 1, 1).get(timeout=WAIT) == 2


def test_a_soft_limit_is_raised_where_a_coroutine_computes(pool: Site):
    result = pool.call("spins_awaited", 8, soft_time_limit=0.4)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=WAIT)
    assert pool.send("sums_later", 1, 1).get(timeout=WAIT) == 2


@pytest.mark.parametrize(
    "name", ["awaits_long", "awaits_and_catches_all", "spins_awaited", "blocks_loop", "keeps_the_interpreter"]
)
def test_a_hard_limit_ends_any_coroutine(pool: Site, name: str):
    sent_at = time.monotonic()
    result = pool.call(name, 8, time_limit=0.6)
    begun = pool.wait_note(result, "start")["at"]
    with pytest.raises(TimeLimitExceeded, match=r"0\.6 s"):
        result.get(timeout=WAIT)
    after = pool.send("sums_later", 1, 1)
    assert after.get(timeout=WAIT) == 2
    ended_by = pool.notes(after)[0]["at"]
    assert ended_by - sent_at >= 0.6 and ended_by - begun < 0.6 + 0.5 + LENIENT
    pool.wait_empty()
    assert len(pool.notes(result, "start")) == 1 and pool.stats().dead == 0


def test_a_coroutine_in_time_hears_nothing_of_its_limits(pool: Site):
    results = [pool.call("awaits_and_cleans_up", 0.05, soft_time_limit=5, time_limit=10) for _ in range(3)]
    assert [result.get(timeout=WAIT) for result in results] == ["not told"] * 3


@pytest.mark.parametrize("name", ["awaits_long", "awaits_and_catches_all", "spins_awaited", "blocks_loop"])
def test_a_coroutine_that_is_revoked_ends(pool: Site, name: str):
    result = pool.send(name, 10)
    begun = pool.wait_note(result, "start")["at"]
    pool.app.control.terminate(result.id)
    after = pool.send("sums_later", 1, 1)
    assert after.get(timeout=WAIT) == 2
    assert pool.notes(after)[0]["at"] - begun < GRACE + 1.0 + LENIENT
    wait_until(lambda: result.state == states.REVOKED, pool.told)
    pool.wait_empty()
    assert len(pool.notes(result, "start")) == 1 and pool.stats().dead == 0
    assert name != "awaits_long" or len(pool.notes(result, "left")) == 1


def test_coroutines_end_as_functions_do(pool: Site):
    ends = {how: pool.send("ends_awaited", how) for how in ("tea", "ignore", "reject", "exit", "cancel")}
    retried = pool.send("retries_awaited", 2)
    assert retried.get(timeout=WAIT) == 2 and len(pool.notes(retried, "run")) == 3
    with pytest.raises(Exception, match="tea"):
        ends["tea"].get(timeout=WAIT)
    for how in ("reject", "exit", "cancel"):
        wait_until(ends[how].failed, pool.told)
    pool.wait_empty()
    assert ends["ignore"].state == states.PENDING
    assert len(pool.wait_dead()) == 1
    assert pool.send("sums_later", 1, 1).get(timeout=WAIT) == 2


def test_a_hook_and_its_coroutine_share_a_context(pool: Site):
    assert pool.send("is_painted").get(timeout=WAIT) == "of the hook"


def test_what_a_hook_sets_is_seen_by_no_other_run(asyncio_site: Site):
    assert asyncio_site.send("is_painted").get(timeout=WAIT) == "of the hook"
    asyncio_site.open("gate")
    assert asyncio_site.send("paints", None, "gate").get(timeout=WAIT) == "none"


@pytest.mark.parametrize("name", ["threads", "gevent", "asyncio"])
def test_runs_do_not_see_the_contexts_of_others(sqlite_site: Site, name: str):
    sqlite_site.worker("-P", name, "-c", "3")
    results = {color: sqlite_site.send("paints", color, "gate") for color in ("red", "blue", None)}
    wait_until(lambda: len(sqlite_site.notes(what="start")) == 3, sqlite_site.told)
    sqlite_site.open("gate")
    for color, result in results.items():
        assert result.get(timeout=WAIT) == (color or "none")
        assert sqlite_site.notes(result, "painted")[0]["found"] == [color or "none"] * 2 + [result.id]


def test_a_coroutine_that_must_not_run_twice_does_not(site: Site):
    worker = site.worker("-P", "asyncio", "-c", "2", worker_lease=1)
    result = site.send("awaits_once", "gate")
    site.wait_note(result, "start")
    worker.kill()
    site.worker("-P", "asyncio", "-c", "2", worker_lease=1)
    wait_until(result.failed, site.told)
    assert len(site.notes(result, "start")) == 1


def test_neighbours_of_a_coroutine_that_overruns_notice_nothing(site: Site):
    worker = site.worker("-P", "asyncio", "-c", "4")
    child = worker.children()
    neighbours = [site.send("awaits", "gate") for _ in range(2)]
    for neighbour in neighbours:
        site.wait_note(neighbour, "start")
    overruns = [site.call(name, 30, time_limit=0.5) for name in ("awaits_long", "spins_awaited")]
    for overrun in overruns:
        with pytest.raises(TimeLimitExceeded):
            overrun.get(timeout=WAIT)
    site.open("gate")
    assert [neighbour.get(timeout=WAIT) for neighbour in neighbours] == child * 2
    assert worker.children() == child
    assert all(len(site.notes(neighbour, "start")) == 1 for neighbour in neighbours)


def test_neighbours_run_again_where_a_coroutine_blocks_the_loop_past_its_limit(site: Site):
    site.worker("-P", "asyncio", "-c", "2")
    neighbour = site.send("awaits", "gate")
    site.wait_note(neighbour, "start")
    blocking = site.call("blocks_loop", 20, time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        blocking.get(timeout=WAIT)
    again = site.wait_note(neighbour, "start", 2)
    assert again["crashes"] == 0  # nobody's fault but the other's
    site.open("gate")
    assert neighbour.get(timeout=WAIT) == again["pid"]
    site.wait_empty()
    assert len(site.notes(blocking, "start")) == 1 and site.stats().dead == 0


def test_who_blocks_the_loop_is_named_and_keeps_its_lease(site: Site):
    worker = site.worker("-P", "asyncio", "-c", "2", worker_lease=1)
    other = site.worker("-P", "asyncio", "-c", "1", worker_lease=1)
    results = [site.send("blocks_loop", 3.0) for _ in range(2)]
    assert [result.get(timeout=WAIT) for result in results] == ["blocked"] * 2
    assert all(len(site.notes(result, "start")) == 1 for result in results)
    for part in (
        "Task workload.blocks_loop[",
        "has blocked the event loop",
        "workload.py:",
        "in blocks_loop",
    ):
        wait_until(lambda part=part: part in worker.log() + other.log(), site.told)


def test_a_task_may_stop_or_leave_the_loop_and_others_run_on(asyncio_site: Site):
    (worker,) = asyncio_site.workers
    child = worker.children()
    assert asyncio_site.send("ends_awaited", "stop").get(timeout=WAIT) == "stop"
    assert asyncio_site.send("ends_awaited", "stray").get(timeout=WAIT) == "stray"
    assert asyncio_site.send("sums_later", 1, 1).get(timeout=WAIT) == 2
    assert worker.children() == child


def test_functions_and_coroutines_run_beside_each_other(asyncio_site: Site):
    coroutines = [asyncio_site.send("awaits", "gate") for _ in range(2)]
    functions = [asyncio_site.send("holds", "gate") for _ in range(2)]
    wait_until(lambda: len(asyncio_site.notes(what="start")) == 4, asyncio_site.told)
    asyncio_site.open("gate")
    pids = {result.get(timeout=WAIT) for result in coroutines + functions}
    assert len(pids) == 1


def test_functions_that_find_no_thread_stay_in_the_queue(site: Site):
    site.worker("-P", "asyncio", "-c", "40", worker_prefetch_multiplier=1)
    results = [site.send("holds", "gate") for _ in range(40)]
    wait_until(lambda: len(site.notes(what="start")) == 32, site.told)
    wait_until(lambda: site.stats().ready == 8, site.told)
    site.open("gate")
    for result in results:
        result.get(timeout=WAIT)
    assert len(site.notes(what="start")) == 40


def test_a_stop_lets_coroutines_finish_and_gives_the_others_back(site: Site):
    worker = site.worker("-P", "asyncio", "-c", "3", "-l", "DEBUG")
    results = [site.send("awaits", "gate") for _ in range(5)]
    wait_until(lambda: len(site.notes(what="start")) == 3, site.told)
    worker.ask_to_stop()
    wait_until(lambda: site.stats().ready == 2, site.told)
    site.open("gate")
    assert worker.exit_code() == 0
    assert sum(result.successful() for result in results) == 3
    assert (site.stats().ready, site.stats().running) == (2, 0)


def test_recycling_neither_loses_nor_doubles_coroutines(site: Site):
    results = [site.send("sums_later", n, 1) for n in range(40)]
    worker = site.worker("-P", "asyncio", "-c", "4", "--max-tasks-per-child", "5")
    assert [result.get(timeout=WAIT) for result in results] == [n + 1 for n in range(40)]
    notes = site.notes(what="coroutine")
    assert sorted(note["id"] for note in notes) == sorted(result.id for result in results)
    by_pid = [sum(note["pid"] == pid for note in notes) for pid in {note["pid"] for note in notes}]
    assert len(by_pid) >= 8 and max(by_pid) <= 5
    assert worker.stop() == 0


def test_five_hundred_coroutines_wait_in_one_process_with_few_threads(site: Site):
    worker = site.worker("-P", "asyncio", "-c", "500")
    results = [site.send("awaits", "gate") for _ in range(500)]
    wait_until(lambda: len(site.notes(what="start")) == 500, lambda: str(site.stats()))
    (child,) = worker.children()
    with open(f"/proc/{child}/status") as status:
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    assert threads < 10
    site.open("gate")
    assert {result.get(timeout=WAIT) for result in results} == {child}
    assert worker.stop() == 0
