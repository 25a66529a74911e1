"""P2: a message is settled last. A process that dies at any instant before that costs a second run, never the task."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from harness import WAIT

from tests.guarantees.ground import Ground


def kill_everywhere(ground: Ground) -> None:
    """Kill the child later and later on the way from the end of user code to the settlement, until it is behind it."""
    ground.worker("-c", "1")
    before = behind = 0
    for calls in count(0, ground.step):
        result = ground.do("dies_behind", calls, link=ground.task("plain").s())
        assert result.get(timeout=WAIT) == calls
        ground.wait_empty()
        runs = ground.runs(result)
        followed = sum(note["value"] == calls for note in ground.notes(what="plain"))
        assert runs in (1, 2) and followed >= 1
        if runs == 2:
            assert followed == 1
            before += 1
            ground.clear_streak(calls)
        else:
            behind += 1
            if behind == 3:
                break
    assert before > 2 and ground.stats().dead == 0


def test_p02_a_death_anywhere_before_the_settlement_repeats_the_task(ground: Ground):
    kill_everywhere(ground)


def test_p02_and_so_it_does_where_results_are_kept_elsewhere(redis_url: str, tmp_path: Path):
    ground = Ground(tmp_path, redis_url, result_backend=f"sqlite:///{tmp_path}/results.sqlite")
    try:
        kill_everywhere(ground)
    finally:
        ground.close()
