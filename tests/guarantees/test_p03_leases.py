"""P3: a delivery belongs to its worker while that lives, and soon to another when it does not."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import WAIT, is_running, wait_until

from celeriac import states
from tests.guarantees.ground import SLACK, Ground, elapsed

LEASE = 1.0


def test_p03_a_long_c_call_that_keeps_the_interpreter_is_one_run(ground: Ground):
    """Ten minutes are twenty leases of thirty seconds; these are four of one."""
    for _ in range(2):
        ground.worker("-c", "1", worker_lease=LEASE)
    result = ground.do("blocks", 4)
    assert result.get(timeout=WAIT) == "blocked"
    ground.wait_empty()
    assert ground.runs(result) == 1 and ground.stats().dead == 0


def test_p03_a_dead_childs_task_runs_again_within_two_seconds(ground: Ground):
    ground.worker("-c", "1")  # a lease of thirty seconds: it is not waited for
    result = ground.send("holds", "gate")
    first = ground.wait_note(result, "start")
    killed_at = time.monotonic()
    os.kill(first["pid"], signal.SIGKILL)
    assert ground.wait_note(result, "start", 2)["at"] - killed_at < 2.0 + SLACK
    ground.open("gate")
    result.get(timeout=WAIT)


def test_p03_a_dead_machines_task_runs_elsewhere_within_two_leases(ground: Ground):
    lease = 2.0
    dying = ground.worker("-c", "1", worker_lease=lease)
    result = ground.send("holds", "gate")
    ground.wait_note(result, "start")
    ground.worker("-c", "1", worker_lease=lease)
    killed_at = time.monotonic()
    dying.kill()
    again = ground.wait_note(result, "start", 2)
    assert again["hostname"] == "w2@test" and again["at"] - killed_at < 2 * lease + SLACK
    ground.open("gate")
    result.get(timeout=WAIT)
    assert ground.runs(result) == 2


@pytest.mark.parametrize("pool", ["threads", "gevent", "asyncio"])
def test_p03_a_worker_that_lost_its_lease_settles_nothing(ground: Ground, pool: str):
    """Neither its late result, nor its late failure, nor its late retry counts."""
    paused = ground.worker("-P", pool, "-c", "3", worker_lease=LEASE)
    results = {how: ground.do("ends", how, "gate") for how in ("return", "fail", "retry")}
    for result in results.values():
        ground.wait_note(result, "start")
    with paused.paused() as pids:
        ground.worker("-P", pool, "-c", "3", worker_lease=LEASE)
        for result in results.values():
            ground.wait_note(result, "start", 2)
        ground.open("gate")
        ground.wait_empty()
    wait_until(lambda: paused.log().count("its end was refused") == 3, ground.told)
    ground.wait_empty()
    ended = {how: ground.app.AsyncResult(result.id) for how, result in results.items()}
    assert ended["return"].get(timeout=WAIT) == ended["retry"].get(timeout=WAIT) == "w2@test"
    assert ended["fail"].state == states.FAILURE and "w2@test" in str(ended["fail"].result)
    # Two deliveries each; and one retry, not two.
    assert {how: ground.runs(result) for how, result in results.items()} == {
        "return": 2, "fail": 2, "retry": 3,
    }  # fmt: skip
    assert all(map(is_running, pids)) and paused.stop() == 0


def test_p03_a_name_is_never_used_twice(ground: Ground):
    """A worker that is started again under its old name is not taken for the old one, whose lease still lasts."""
    lease = 3.0
    dying = ground.worker("-c", "1", worker_lease=lease)
    result = ground.send("holds", "gate")
    ground.wait_note(result, "start")
    dying.kill()
    ground.workers.clear()
    ground.worker("-c", "1", worker_lease=lease)
    ready_at = time.monotonic()
    again = ground.wait_note(result, "start", 2)
    assert again["hostname"] == "w1@test" and elapsed(ready_at) < 2 * lease + SLACK
    ground.open("gate")
    result.get(timeout=WAIT)
    ground.wait_empty()
    assert ground.runs(result) == 2
