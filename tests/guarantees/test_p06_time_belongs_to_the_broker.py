"""P6: delayed messages wait in the broker, cost a worker nothing, and start when they are due."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from harness import WAIT, wait_until

from celeriac import group
from tests.guarantees.ground import SLACK, Ground, own_memory

MANY = 20_000
MIB = 1024 * 1024


def test_p06_twenty_thousand_delayed_messages_cost_a_worker_nothing(ground: Ground):
    worker = ground.worker("-c", "1")
    work = [ground.send("add", n) for n in range(20)]
    assert work[-1].get(timeout=WAIT) == 20
    before = own_memory(worker.tree())
    group(ground.task("plain").s(n) for n in range(MANY)).apply_async(countdown=3600)
    again = [ground.send("add", n) for n in range(20)]
    assert again[-1].get(timeout=WAIT) == 20
    wait_until(lambda: ground.stats().running == 0, ground.told)
    stats = ground.stats()
    assert (stats.delayed, stats.ready, stats.dead) == (MANY, 0, 0)
    # As bodies in memory they would be several MiB, as Celery keeps them 170.
    assert own_memory(worker.tree()) - before < 1 * MIB
    assert not ground.notes(what="plain")


def test_p06_what_is_due_starts_within_a_second_at_a_thousand_a_second(ground: Ground):
    ground.worker("-c", "2")
    first, count = 4.0, 3 * ground.due_rate // 2
    now, today = time.monotonic(), datetime.now(UTC)
    delays = [first + n / ground.due_rate for n in range(count)]
    # Due by the clock, however long sending takes.
    group(
        ground.app.signature("deeds.notes_time", (now + delay,)).set(eta=today + timedelta(seconds=delay))
        for delay in delays
    ).apply_async()
    wait_until(lambda: len(ground.notes(what="late")) == count, ground.told)
    late = sorted(note["seconds"] for note in ground.notes(what="late"))
    assert late[0] > -0.1  # the wall clock may be slewed, by little
    assert late[len(late) // 2] < 1.0 and late[-1] < 1.0 + SLACK


def test_p06_a_delay_outlives_the_worker_that_asked_for_it(ground: Ground):
    worker = ground.worker("-c", "1")
    result = ground.call("succeeds_at", 1, 1.0)
    ground.wait_note(result, "run")
    wait_until(lambda: ground.stats().delayed == 1, ground.told)
    worker.kill()
    ground.worker("-c", "1")
    assert result.get(timeout=WAIT)["retries"] == 1
    first, second = ground.notes(result, "run")
    assert second["at"] - first["at"] >= 0.9
