"""Workers at a RabbitMQ server that is short of memory or disk: they wait, lose nothing, and run nothing twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import pytest
from harness import WAIT, Probe, Site, Worker, wait_until
from tests import processes
from tests.private_rabbitmq import PrivateRabbit

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(240)]

#: Seconds: an answer that does not come, and a lease.
TIMES = {"broker_transport_options": {"timeout": 4.0}, "worker_lease": 2.0}


@pytest.fixture
def site(private_rabbit: Site) -> Site:
    return private_rabbit


def pass_time(seconds: float) -> None:
    """Let an alarm last."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, timeout=seconds + WAIT)


def seconds_used(worker: Worker) -> float:
    """The processor time of all its processes."""
    return sum(processes.seconds_used(pid) for pid in worker.tree())


@pytest.mark.parametrize(("pool", "what"), [("prefork", "memory"), ("threads", "disk")])
def test_an_alarm_of_several_leases_costs_no_run(
    site: Site, rabbitmq_server: PrivateRabbit, pool: str, what: str
):
    probe = Probe()
    workers = [site.worker("-P", pool, "-c", "2", *probe.flags, **TIMES), site.worker("-c", "1", **TIMES)]
    running = [site.send("holds", gate) for gate in ("early", "late", "late")]
    for result in running:
        site.wait_note(result, "start")
    waiting = [site.send("plain", number) for number in range(20)]
    with rabbitmq_server.short_of(what):
        # What ends is to be told while nothing is taken in.
        site.open("early")
        site.wait_note(running[0], "end")
        probe.wait("/ready", 503, "broker")
        used, lines = [seconds_used(worker) for worker in workers], [worker.log() for worker in workers]
        pass_time(4 * TIMES["worker_lease"])
        used = [seconds_used(worker) - before for worker, before in zip(workers, used, strict=True)]
        lines = [worker.log().removeprefix(before) for worker, before in zip(workers, lines, strict=True)]
        assert max(used) < 2.0, "they wait, and do not ask on and on"
        assert max(log.count("\n") for log in lines) <= 4, lines
        done = subprocess.run(
            [sys.executable, "-m", "celeriac", "-b", site.url, "queues"],
            capture_output=True, text=True, timeout=WAIT, check=False,
        )  # fmt: skip
        assert done.returncode == 69 and f"because it is short of {what}" in done.stderr
    back_at = time.monotonic()
    wait_until(lambda: len(site.notes(what="plain")) > 0, site.told)
    assert time.monotonic() - back_at < 5.0
    site.open("late")
    assert [isinstance(result.get(timeout=WAIT), int) for result in running] == [True] * 3
    wait_until(lambda: all(site.notes(result) for result in waiting), site.told)
    wait_until(lambda: site.stats().ready == 0, site.told)
    assert [len(site.notes(result, "start")) for result in running] == [1] * 3
    assert len(site.notes(what="plain")) == len(waiting)
    assert site.stats().dead == 0
    assert any(f"short of {what}" in worker.log() for worker in workers)
    assert [worker.stop() for worker in workers] == [0, 0]


@pytest.mark.parametrize("seconds", [1.0, 9.0])
def test_an_alarm_in_the_middle_of_everything_loses_nothing(
    site: Site, rabbitmq_server: PrivateRabbit, seconds: float
):
    """Shorter, and longer than it takes until a connection is given up on which something is on its way."""
    results = [site.send("plain", number) for number in range(600)]
    workers = [site.worker("-c", "2", **TIMES) for _ in range(2)]
    site.wait_note(None, "plain", 50)
    with rabbitmq_server.short_of("memory"):
        pass_time(seconds)
    wait_until(lambda: {note["id"] for note in site.notes()} >= {one.id for one in results}, site.told)
    wait_until(lambda: site.stats().ready == 0, site.told)
    assert [worker.stop() for worker in workers] == [0, 0]
    runs = Counter(note["id"] for note in site.notes(what="plain"))
    if "quorum" in site.url or seconds < TIMES["broker_transport_options"]["timeout"]:
        assert set(runs.values()) == {1}
    assert site.stats().dead == 0 and max(runs.values()) <= 2


def test_a_worker_stops_in_an_alarm(site: Site, rabbitmq_server: PrivateRabbit):
    """What it has run and cannot tell runs again when there is another: as with any broker that is away."""
    worker = site.worker("-c", "1", worker_shutdown_timeout=2.0, **TIMES)
    result = site.send("holds", "gate")
    site.wait_note(result, "start")
    with rabbitmq_server.short_of("disk"):
        site.open("gate")
        site.wait_note(result, "end")
        assert worker.stop() is not None
    site.worker("-c", "1", **TIMES)
    result.get(timeout=WAIT)
    assert site.stats().dead == 0
