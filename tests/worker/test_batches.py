"""What waits in a child for the end of another run: nothing, when that run is a long one."""

from __future__ import annotations

import pytest
from harness import WAIT, Site


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_run_known_to_be_long_begins_when_nothing_waits_behind_it(site: Site, pool: str):
    site.worker("-P", pool, "-c", "1", worker_prefetch_multiplier=10)
    assert site.send("counts_waiting", 0.15).get(timeout=WAIT) == {"ready": 0, "running": 1}
    held = site.send("holds", "gate")
    site.wait_note(held, "start")
    before = [site.send("add", number) for number in range(3)]
    long = site.send("counts_waiting", 0.15)
    behind = [site.send("add", number) for number in range(3)]
    site.open("gate")
    # All of them came in one batch: those before it have been settled, those behind it are back in the queue.
    assert long.get(timeout=WAIT) == {"ready": 3, "running": 1}
    assert [result.get(timeout=WAIT) for result in (*before, *behind)] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_waits_behind_a_run_that_is_long_unexpectedly_goes_back_while_it_runs(site: Site, pool: str):
    site.worker("-P", pool, "-c", "1", worker_prefetch_multiplier=10)
    held = site.send("holds", "first")
    site.wait_note(held, "start")
    long = site.send("holds_once", "second")
    behind = [site.send("add", number) for number in range(3)]
    site.open("first")
    site.wait_note(long, "start")
    # Another worker, as idle as one can be, has them all before the long run ends.
    site.worker("-c", "1")
    assert [result.get(timeout=WAIT) for result in behind] == [1, 2, 3]
    assert not site.notes(long, "end")
    site.open("second")
    assert long.get(timeout=WAIT)


def test_what_was_given_back_does_not_count_as_a_task_of_this_child(site: Site):
    site.worker("-c", "1", worker_prefetch_multiplier=10, worker_max_tasks_per_child=8)
    assert site.send("counts_waiting", 0.15).get(timeout=WAIT)["running"] == 1
    held = site.send("holds", "gate")
    site.wait_note(held, "start")
    # Taken together, which makes six, of which two go back.
    results = [
        site.send("add", 1),
        site.send("counts_waiting", 0.15),
        site.send("add", 2),
        site.send("add", 3),
    ]
    site.open("gate")
    assert results[1].get(timeout=WAIT) == {"ready": 2, "running": 1}
    assert [result.get(timeout=WAIT) for result in results[2:]] == [3, 4]
    assert site.send("about").get(timeout=WAIT)["pid"] == held.get()
