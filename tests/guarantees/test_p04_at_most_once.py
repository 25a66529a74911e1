"""P4: with `acks_late=False` no run begins twice, whatever dies and whenever."""

from __future__ import annotations

import os
import signal
from itertools import count

import pytest
from harness import WAIT

from celeriac import states
from celeriac.exceptions import WorkerLostError
from tests.guarantees.ground import Ground


def test_p04_a_run_that_was_killed_is_a_failure_and_never_repeated(ground: Ground):
    worker = ground.worker("-c", "1", worker_lease=1.0)
    child_dies = ground.send("holds_once", "gate")
    os.kill(ground.wait_note(child_dies, "start")["pid"], signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        child_dies.get(timeout=WAIT)
    all_dies = ground.send("holds_once", "gate")
    ground.wait_note(all_dies, "start")
    worker.kill()
    ground.worker("-c", "1", worker_lease=1.0)
    with pytest.raises(WorkerLostError):
        all_dies.get(timeout=WAIT)
    ground.wait_empty()
    for result in (child_dies, all_dies):
        assert result.state == states.FAILURE and ground.runs(result) == 1
    assert ground.stats().dead == 0


def test_p04_a_death_anywhere_behind_the_run_repeats_nothing(ground: Ground):
    ground.worker("-c", "1")
    lost = kept = 0
    for calls in count(0, ground.step):
        result = ground.do("dies_behind_once", calls)
        ground.wait_empty()
        assert ground.runs(result) == 1
        if result.state == states.SUCCESS:
            assert result.get(timeout=WAIT) == calls
            kept += 1
        else:
            assert result.state == states.FAILURE and isinstance(result.result, WorkerLostError)
            lost += 1
        ground.clear_streak(calls)
        if kept == 3:
            break
    assert lost > 2 and ground.stats().dead == 0
