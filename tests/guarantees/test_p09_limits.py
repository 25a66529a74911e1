"""P9: soft and hard time limits hold in every pool, to half a second, and neighbours run once."""

from __future__ import annotations

import time

import pytest
from harness import WAIT

from celeriac.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from tests.guarantees.ground import SLACK, Ground

POOLS = pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "asyncio"])
LIMIT = 0.6


@POOLS
def test_p09_limits_hold_in_every_pool(ground: Ground, pool: str):
    ground.worker("-P", pool, "-c", "1")
    sent_at = time.monotonic()
    soft = ground.call("cleans_up", 30, soft_time_limit=LIMIT, time_limit=20)
    hard = ground.call("catches_all", 30, time_limit=LIMIT)
    neighbours = [ground.send("add", n) for n in range(3)]
    assert soft.get(timeout=WAIT) == "cleaned up"
    begun, caught = ground.notes(soft)
    # The limit counts from a moment between the two: the run has begun before it notes so.
    assert caught["at"] - sent_at >= LIMIT and caught["at"] - begun["at"] < LIMIT + 0.5 + SLACK
    with pytest.raises(TimeLimitExceeded, match=r"0\.6 s"):
        hard.get(timeout=WAIT)
    assert [result.get(timeout=WAIT) for result in neighbours] == [1, 2, 3]
    ended_by = ground.notes(neighbours[0])[0]["at"]
    assert ended_by - caught["at"] >= LIMIT
    assert ended_by - ground.notes(hard, "start")[0]["at"] < LIMIT + 0.5 + SLACK
    ground.wait_empty()
    assert ground.runs(soft) == ground.runs(hard) == 1 and ground.stats().dead == 0
    assert all(len(ground.notes(result)) == 1 for result in neighbours)


@POOLS
def test_p09_a_call_that_keeps_the_interpreter_is_ended_too(ground: Ground, pool: str):
    ground.worker("-P", pool, "-c", "1")
    result = ground.do("blocks", 30, time_limit=LIMIT)
    begun = ground.wait_note(result, "start")["at"]
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=WAIT)
    after = ground.send("add", 1)
    assert after.get(timeout=WAIT) == 2
    assert ground.notes(after)[0]["at"] - begun < LIMIT + 0.5 + SLACK
    assert ground.runs(result) == 1


@POOLS
def test_p09_a_limit_that_a_task_does_not_catch_is_its_failure(ground: Ground, pool: str):
    ground.worker("-P", pool, "-c", "1")
    with pytest.raises(SoftTimeLimitExceeded):
        ground.call("spins", 10, soft_time_limit=LIMIT).get(timeout=WAIT)
