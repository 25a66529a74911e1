"""P5: what kills its process, cannot be read or is not known ends as a dead letter, and nothing else does."""

from __future__ import annotations

import pytest
from harness import WAIT

from celeriac.brokers.contract import Outgoing
from celeriac.message import id_of
from tests.guarantees.ground import Ground

GARBAGE = b"\xc1 this was never a message \xff" * 3


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_p05_poison_runs_three_times_and_its_neighbours_finish(ground: Ground, pool: str):
    before = [ground.send("add", n) for n in range(5)]
    poison = ground.send("dies", "SIGSEGV")
    after = [ground.send("add", n) for n in range(5, 10)]
    ground.worker("-P", pool, "-c", "1", worker_prefetch_multiplier=20)
    (letter,) = ground.wait_dead()
    assert [result.get(timeout=WAIT) for result in before + after] == list(range(1, 11))
    ground.wait_empty()
    assert len(ground.notes(poison, "dies")) == 3
    assert letter.reason == "crashed" and id_of(letter.key) == poison.id
    assert [casualty.cause for casualty in letter.casualties] == ["signal 11 (SIGSEGV)"] * 3
    assert all(casualty.worker == "w1@test" and casualty.memory for casualty in letter.casualties)
    assert all(len(ground.notes(result)) == 1 for result in before + after)


@pytest.mark.parametrize("calls", [5, 40])
def test_p05_a_death_between_the_end_of_user_code_and_the_settlement_counts_too(ground: Ground, calls: int):
    poison = ground.do("dies_always_behind", calls)
    ground.worker("-c", "1")
    (letter,) = ground.wait_dead()
    assert len(ground.notes(poison, "start")) == 3
    assert letter.reason == "crashed" and id_of(letter.key) == poison.id


def test_p05_retries_and_interruptions_count_as_no_crash(ground: Ground):
    result = ground.do("climbs", 10)
    held = ground.send("holds", "gate")
    for _ in range(4):
        worker = ground.worker("-c", "2", worker_shutdown_timeout=0.1)
        ground.wait_note(held, "start", len(ground.workers))
        assert worker.stop() == 0
    ground.open("gate")
    ground.worker("-c", "1")
    assert result.get(timeout=WAIT) == 10
    held.get(timeout=WAIT)
    assert {note["crashes"] for note in ground.notes(held, "start")} == {0} and ground.stats().dead == 0


def test_p05_what_cannot_be_read_is_a_dead_letter_at_once_with_its_bytes(ground: Ground):
    ground.broker.send([Outgoing("celery", GARBAGE)], 5.0)
    ground.worker("-c", "1")
    (letter,) = ground.wait_dead()
    assert (letter.reason, letter.data) == ("unreadable", GARBAGE)
    ground.wait_empty()


def test_p05_an_unknown_task_waits_for_a_worker_that_knows_it(ground: Ground):
    known = ground.send("add", 1, 2)
    unknown = ground.app.send_task("workload.of_no_deploy")
    old = ground.worker("-c", "1", environ={"WORKLOAD_WITHOUT": "add"}, task_unknown_grace=60.0)
    old.wait_log("put back for other workers")
    ground.worker("-c", "1", task_unknown_grace=2.0)
    assert known.get(timeout=WAIT) == 3
    (letter,) = ground.wait_dead()
    assert letter.reason == "unknown task" and id_of(letter.key) == unknown.id
    assert len(ground.notes(known)) == 1
