"""P10 while a server is away, in every way that it can be: workers wait, take again soon, and lose nothing.

One worker goes through all ways, one after the other. Times are scaled: `worker_lease`, the driver's `socket_timeout`
and `broker_connection_lost_timeout` are seconds here.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT, Probe, Worker, wait_until

from celeriac import states
from celeriac.async_result import AsyncResult
from tests.guarantees import outages, rabbitmq_outages
from tests.guarantees.ground import SLACK, Ground, RabbitGround
from tests.guarantees.outages import Wire
from tests.guarantees.rabbitmq_outages import RabbitWire
from tests.servers import PrivateRedis

POOLS = ("prefork", "threads")
#: A server that swallows is noticed after so many seconds; the default is 10.
SHORT: dict[str, Any] = {"broker_transport_options": {"socket_timeout": 1.0}}
#: The same where a call has some ten answers, and queues have to be made.
STEADY: dict[str, Any] = {"broker_transport_options": {"socket_timeout": 3.0}}
ON_BOTH = pytest.mark.parametrize(
    "wire", ["redis", pytest.param("rabbitmq", marks=pytest.mark.private_rabbitmq)], indirect=True
)
#: All ways, for one worker after the other: by broker, with its times.
WAYS: dict[str, Any] = {
    "redis": ({**outages.ALL, "forgetting": (outages.forgetting, "")}, SHORT),
    "rabbitmq": (rabbitmq_outages.ALL, STEADY),
}
#: How sends and renewals go on and nobody can take, and what the server says.
_NO_TAKES: dict[str, Any] = {
    "redis": (outages.no_takes, "NOPERM"),
    "rabbitmq": (rabbitmq_outages.no_takes, "ACCESS_REFUSED"),
}


@pytest.fixture
def wired(wire: Wire | RabbitWire, tmp_path: Path) -> Iterator[Ground]:
    """A ground whose workers go through the wire; this test itself asks the server directly."""
    if isinstance(wire, RabbitWire):
        ground: Ground = RabbitGround(tmp_path, wire.server, wire.direct)
    else:
        ground = Ground(tmp_path, wire.direct)
    ground.url = wire.url
    yield ground
    ground.close()


def pass_time(seconds: float) -> None:
    """Let an outage last."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until)


def pair(ground: Ground, *probes: Probe, **settings: Any) -> list[Worker]:
    """A worker of each kind of pool, which takes from the queue of the pool's name."""
    flags = [probe.flags for probe in probes] or [()] * len(POOLS)
    return [
        ground.worker("-P", pool, "-c", "2", "-Q", pool, *more, **settings)
        for pool, more in zip(POOLS, flags, strict=True)
    ]


@pytest.mark.timeout(400)
@ON_BOTH
def test_p10_workers_outlast_every_way_of_being_away(wired: Ground, wire: Wire | RabbitWire):
    ways, times = WAYS["rabbitmq" if isinstance(wire, RabbitWire) else "redis"]
    workers = pair(wired, worker_lease=3.0, **times)
    children = [worker.children() for worker in workers]
    sent: list[AsyncResult] = []
    for name, (outage, _) in ways.items():
        running = [wired.call("holds", f"gate {name}", queue=pool) for pool in POOLS]
        for result in running:
            wired.wait_note(result, "start")
        due = [wired.call("plain", n, countdown=0.3, queue=pool) for n in range(5) for pool in POOLS]
        with outage(wire):
            # What ends is to be told while nobody listens.
            wired.open(f"gate {name}")
            for result in running:
                wired.wait_note(result, "end")
            pass_time(1.0)
        back_at = time.monotonic()
        for result in due:
            wired.wait_note(result, "plain")
        assert time.monotonic() - back_at < 5.0 + SLACK, f"{name}: {wired.told()}"
        for pool in POOLS:
            wired.wait_empty(pool)
        sent += running + due
    ran = [note["id"] for note in wired.notes() if note["what"] in ("plain", "start")]
    assert sorted(ran) == sorted(result.id for result in sent)
    assert [worker.children() for worker in workers] == children
    assert [worker.stop() for worker in workers] == [0, 0]
    assert not any(wired.stats(pool).dead for pool in POOLS)


@pytest.mark.parametrize(
    ("wire", "name"),
    [("redis", name) for name in ("hanging", "half-open", "full")]
    + [
        pytest.param("rabbitmq", name, marks=pytest.mark.private_rabbitmq)
        for name in ("hanging", "half-open", "memory", "shut out")
    ],
    indirect=["wire"],
)
def test_p10_a_worker_gives_up_a_broker_that_stays_away(wired: Ground, wire: Wire | RabbitWire, name: str):
    ways, short = WAYS["rabbitmq" if isinstance(wire, RabbitWire) else "redis"]
    outage, _ = ways[name]
    result = wired.call("add", 1, countdown=4.0)
    times = {"worker_lease": 1.0, "broker_connection_lost_timeout": 1.0, "worker_shutdown_timeout": 1.0}
    worker = wired.worker("-c", "1", **times, **short)
    with outage(wire):
        assert worker.exit_code(1.0 + 15.0 + SLACK) == 69
    assert "stopping: the broker has" in worker.log() and "Traceback" not in worker.log()
    wired.worker("-c", "1", **short)
    assert result.get(timeout=WAIT) == 2
    assert len(wired.notes(result, "add")) == 1


@ON_BOTH
def test_p10_workers_that_renew_and_cannot_take_are_not_ready_and_give_up(
    wired: Ground, wire: Wire | RabbitWire
):
    no_takes, told = _NO_TAKES["rabbitmq" if isinstance(wire, RabbitWire) else "redis"]
    probes = [Probe(), Probe()]
    workers = pair(wired, *probes, broker_connection_lost_timeout=3.0)
    for probe in probes:
        probe.wait("/ready", 200, "ready")
    with no_takes(wire):
        waiting = [wired.call("add", 1, queue=pool) for pool in POOLS]
        for probe in probes:
            probe.wait("/ready", 503, "the broker has let no child take or settle for", 5.0 + SLACK)
            assert probe.get("/live") == (200, "live")
    # It passed: nobody counts it with the next.
    for result, probe in zip(waiting, probes, strict=True):
        assert result.get(timeout=WAIT) == 2
        probe.wait("/ready", 200, "ready", 5.0 + SLACK)
    with no_takes(wire):
        late = [wired.call("add", 2, queue=pool) for pool in POOLS]
        assert [worker.exit_code(3.0 + 10.0 + SLACK) for worker in workers] == [69, 69]
    for worker in workers:
        assert "the broker has let no child take for too long" in worker.log() and told in worker.log()
    wired.worker("-c", "1", "-Q", ",".join(POOLS))
    assert [result.get(timeout=WAIT) for result in late] == [3, 3]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_p10_a_result_store_that_is_away_is_waited_for_with_what_has_run(
    private_redis: PrivateRedis, tmp_path: Path, pool: str
):
    probe = Probe()
    ground = Ground(tmp_path, f"sqlite:///{tmp_path}/queue.sqlite", result_backend=private_redis.url)
    try:
        worker = ground.worker(
            "-P", pool, "-c", "2", *probe.flags, broker_connection_lost_timeout=1.0, worker_lease=1.0
        )
        private_redis.stop()
        results = [ground.send("add", n) for n in range(500)]
        away = re.compile(r"the result store has been away for (\d+) s")
        wait_until(
            lambda: (found := away.search(probe.get("/ready")[1])) and int(found[1]) >= 2,
            lambda: f"{probe.get('/ready')}",
        )
        assert probe.get("/live") == (200, "live")
        # What waits for the store is bounded: nothing more is taken.
        assert len(ground.notes(what="add")) <= 300
        private_redis.start()
        assert [result.get(timeout=WAIT) for result in results] == list(range(1, 501))
        ground.wait_empty()
        assert len(ground.notes(what="add")) == len(results)
        probe.wait("/ready", 200, "ready")
        assert worker.stop() == 0
    finally:
        ground.close()


def test_p10_a_child_whose_main_thread_is_stuck_between_tasks_is_replaced(sqlite_ground: Ground):
    """In an application's own signal handler that never returns; the child's other thread goes on all the same."""
    probes = [Probe(), Probe()]
    workers = pair(sqlite_ground, *probes)
    stuck = [worker.children()[0] for worker in workers]
    for pid in stuck:
        os.kill(pid, signal.SIGUSR2)
    for probe in probes:
        probe.wait("/live", 503, "has not come round for", 30.0)
    for pid, worker in zip(stuck, workers, strict=True):
        wait_until(lambda pid=pid, worker=worker: pid not in worker.children(), worker.log)
    for pool, probe in zip(POOLS, probes, strict=True):
        assert sqlite_ground.call("add", 1, queue=pool).get(timeout=WAIT) == 2
        probe.wait("/live", 200, "live")
    assert [worker.stop() for worker in workers] == [0, 0]


def limit_files(worker: Worker, size: int) -> None:
    """Let no process of the worker make a file longer than so many bytes."""
    for pid in worker.tree():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_p10_on_an_sqlite_file_whose_disk_is_full_ends_wait_and_nothing_runs_twice(sqlite_ground: Ground):
    worker = sqlite_ground.worker("-c", "1")
    running, waiting = sqlite_ground.send("holds", "gate"), sqlite_ground.send("add", 1)
    sqlite_ground.wait_note(running, "start")
    # Its log and what its tasks note stay below this; what belongs to the database is longer already.
    limit_files(worker, 20_000)
    sqlite_ground.open("gate")
    sqlite_ground.wait_note(running, "end")
    worker.wait_log("full")
    assert running.state == states.PENDING
    limit_files(worker, resource.RLIM_INFINITY)
    running.get(timeout=WAIT)
    waiting.get(timeout=WAIT)
    assert sqlite_ground.runs(running) == 1
    assert worker.stop() == 0


def test_p10_a_worker_whose_sqlite_file_is_deleted_says_so_and_goes_on_with_the_new_one(
    sqlite_ground: Ground, tmp_path: Path
):
    worker = sqlite_ground.worker("-c", "1")
    assert sqlite_ground.send("add", 1).get(timeout=WAIT) == 1 + 1
    for file in tmp_path.glob("queue.sqlite*"):
        file.unlink()
    assert sqlite_ground.send("add", 2).get(timeout=WAIT) == 2 + 1
    worker.wait_log("was deleted or replaced while it was in use")
    assert worker.stop() == 0
