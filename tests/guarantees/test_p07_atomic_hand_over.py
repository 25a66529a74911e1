"""P7: a retry ends the old delivery and stores the new message as one step."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from itertools import count, pairwise

from harness import WAIT

from tests.guarantees.ground import Ground

KILLS = 12


def test_p07_nobody_ever_sees_a_retried_task_twice_or_not_at_all(ground: Ground):
    chance = random.Random(7)
    worker = ground.worker("-c", "2", task_max_deliveries=1000)
    tasks = 4
    results = [ground.do("climbs", 250) for _ in range(tasks)]
    seen: set[int] = set()
    kills, kill_at = 0, time.monotonic()
    until = time.monotonic() + WAIT
    while not all(result.ready() for result in results):
        assert time.monotonic() < until, ground.told()
        ended = sum(result.ready() for result in results)
        stats = ground.stats()
        ended_now = sum(result.ready() for result in results)
        if ended == ended_now:
            seen.add(stats.ready + stats.delayed + stats.running + ended)
        # One that has run something: after deaths in a row that no run is to blame for, the next child is waited for.
        ran = {note["pid"] for note in ground.notes(what="start")}
        children = [pid for pid in worker.children() if pid in ran]
        if kills < KILLS and time.monotonic() > kill_at and children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
            kills += 1
            kill_at = time.monotonic() + chance.uniform(0.01, 0.15)
    assert (seen == {tasks} or not ground.counts_at_once) and kills > 3
    ground.wait_empty()
    assert ground.stats().dead == 0
    for result in results:
        assert result.get(timeout=WAIT) == 250
        steps = [note["retries"] for note in ground.notes(result, "start")]
        # Killed runs are repeated; but no retry is left out, and none comes back when the next has begun.
        assert all(later - earlier in (0, 1) for earlier, later in pairwise(steps))
        assert (steps[0], steps[-1]) == (0, 250)


def test_p07_a_death_anywhere_on_the_way_hands_over_once(ground: Ground):
    ground.worker("-c", "1")
    before = behind = 0
    for calls in count(0, ground.step):
        result = ground.do("dies_behind_retry", calls)
        assert result.get(timeout=WAIT) == calls
        ground.wait_empty()
        steps = [note["retries"] for note in ground.notes(result, "start")]
        # What is counted on into the retried run may end that too: it is repeated, the one before it is not.
        assert steps in ([0, 0, 1], [0, 1], [0, 1, 1])
        ground.clear_streak(calls)
        before, behind = before + (steps[1] == 0), behind + (steps[1] == 1)
        if behind == 3:
            break
    assert before > 2 and ground.stats().dead == 0
