"""P10: workers wait for a broker that is away, take again soon after its return, and lose nothing."""

from __future__ import annotations

import re
import time

import pytest
from harness import WAIT, wait_until

from celeriac.exceptions import BrokerUnavailable
from tests.guarantees.ground import SLACK, Ground, Server


def test_p10_a_worker_takes_again_within_five_seconds(private_ground: Ground, private_server: Server):
    worker = private_ground.worker("-c", "2", worker_lease=5.0)
    finishing = private_ground.send("holds", "gate")
    private_ground.wait_note(finishing, "start")
    waiting = [private_ground.call("plain", n, countdown=0.2) for n in range(50)]
    private_server.stop()
    with pytest.raises(BrokerUnavailable):
        private_ground.app.tasks["workload.plain"].apply_async((0,))
    private_ground.open("gate")
    private_ground.wait_note(finishing, "end")
    # Away for so long that every pause has grown to its longest.
    until = time.monotonic() + 6.0
    wait_until(lambda: time.monotonic() > until)
    private_server.start()
    back_at = time.monotonic()
    wait_until(lambda: len(private_ground.notes(what="plain")) == len(waiting), private_ground.told)
    assert min(note["at"] for note in private_ground.notes(what="plain")) - back_at < 5.0 + SLACK
    private_ground.wait_empty()
    assert {note["id"] for note in private_ground.notes(what="plain")} == {result.id for result in waiting}
    assert finishing.successful() and private_ground.runs(finishing) == 1
    assert re.search("Trying again in", worker.log()) and worker.stop() == 0


def test_p10_outages_one_after_the_other_lose_nothing(private_ground: Ground, private_server: Server):
    private_ground.worker("-c", "2")
    results = []
    for n in range(4):
        results += [private_ground.send("plain", m) for m in range(50)]
        (private_server.kill if n % 2 else private_server.stop)()
        private_server.start()
    private_ground.wait_empty()
    assert {note["id"] for note in private_ground.notes(what="plain")} == {result.id for result in results}
    assert private_ground.stats().dead == 0


def test_p10_a_worker_that_cannot_take_for_too_long_exits_with_an_error(
    private_ground: Ground, private_server: Server
):
    worker = private_ground.worker("-c", "1", broker_connection_lost_timeout=1.0, worker_lease=1.0)
    private_server.stop()
    assert worker.exit_code(1.0 + 10.0 + SLACK) == 69
    private_server.start()
    result = private_ground.send("add", 1)
    private_ground.worker("-c", "1")
    assert result.get(timeout=WAIT) == 2
