"""Brokers that are not there yet, go away and come back: workers wait, and nothing is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from harness import WAIT, Site, Worker, wait_until
from tests.postgres import PrivatePostgres
from tests.servers import PrivateRedis

from celeriac.async_result import AsyncResult


@pytest.fixture
def fragile(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Site]:
    """A site on a Redis server that the test may do anything to."""
    site = Site(tmp_path, private_redis.url)
    yield site
    site.close()


def test_a_worker_waits_for_a_broker_that_is_not_there_yet(fragile: Site, private_redis: PrivateRedis):
    private_redis.stop()
    worker = fragile.worker("-c", "1", ready=False)
    worker.wait_log("Cannot connect to")
    private_redis.start()
    assert fragile.send("add", 1, 2).get(timeout=WAIT) == 3
    worker.wait_log("again after")
    assert worker.stop() == 0


def test_a_server_that_may_delete_what_it_keeps_is_told_of(fragile: Site, private_redis: PrivateRedis):
    with private_redis.client() as client:
        client.call("CONFIG", "SET", "maxmemory", 100_000_000, "maxmemory-policy", "allkeys-lru")
    worker = fragile.worker("-c", "1")
    worker.wait_log("maxmemory-policy is allkeys-lru: at 100,000,000 bytes")
    assert worker.stop() == 0


@pytest.mark.parametrize("end", [PrivateRedis.stop, PrivateRedis.kill], ids=["shutdown", "power cut"])
def test_a_broker_that_restarts_loses_no_task(
    fragile: Site, private_redis: PrivateRedis, end: Callable[[PrivateRedis], None]
):
    survives_a_restart(fragile, lambda: end(private_redis), private_redis.start)


@pytest.mark.parametrize("end", [PrivatePostgres.stop, PrivatePostgres.kill], ids=["shutdown", "power cut"])
def test_a_postgresql_server_that_restarts_loses_no_task(
    private_postgres: PrivatePostgres, tmp_path: Path, end: Callable[[PrivatePostgres], None]
):
    site = Site(tmp_path, private_postgres.url)
    survives_a_restart(site, lambda: end(private_postgres), private_postgres.start)
    site.close()


def test_a_crash_of_a_postgresql_server_loses_transient_tasks_alone(
    private_postgres: PrivatePostgres, tmp_path: Path
):
    site = Site(tmp_path, private_postgres.url)
    worker = site.worker("-c", "1", worker_lease=3.0)
    running = site.call("holds", "gate", delivery_mode="transient")
    site.wait_note(running, "start")
    durable = [site.send("plain", n) for n in range(20)]
    lost = [site.call("plain", n, delivery_mode="transient") for n in range(20)]
    private_postgres.kill()
    worker.wait_log("Cannot connect to")
    private_postgres.start()
    site.open("gate")
    site.wait_empty()
    site.call("plain", 1, delivery_mode="transient")
    wait_until(lambda: len(site.notes(what="plain")) == len(durable) + 1, site.told)
    ran = {note["id"] for note in site.notes(what="plain")}
    assert ran >= {result.id for result in durable}
    assert not ran & {result.id for result in lost}
    assert len(site.notes(running, "start")) == 1
    assert site.stats().dead == 0 and worker.stop() == 0
    site.close()


def survives_a_restart(fragile: Site, end: Callable[[], None], start: Callable[[], None]) -> None:
    """Nothing is lost, and nothing runs twice, when the server ends while a worker runs."""
    results = [fragile.send("plain", n) for n in range(300)]
    slow = [fragile.send("holds", "gate") for _ in range(2)]
    results += [fragile.send("plain", n) for n in range(300, 400)]
    worker = fragile.worker(
        "-c", "2", worker_lease=3.0
    )  # busy children do not look: the supervisor does, soon
    for result in slow:
        fragile.wait_note(result, "start")
    end()
    worker.wait_log("Cannot connect to")
    fragile.open("gate")
    for result in slow:
        fragile.wait_note(result, "end")
    start()
    back_at = time.monotonic()
    fragile.wait_empty()
    assert time.monotonic() - back_at < 5.0 + 5.0
    ran = [note["id"] for note in fragile.notes(what="plain")]
    assert set(ran) == {result.id for result in results}
    assert len(ran) == len(results)
    assert all(result.successful() for result in slow)
    assert all(len(fragile.notes(result, "start")) == 1 for result in slow)
    assert fragile.stats().dead == 0 and worker.stop() == 0


def test_what_was_stored_before_a_power_cut_is_there_after_it(fragile: Site, private_redis: PrivateRedis):
    ready = fragile.send("add", 1)
    delayed = fragile.call("add", 2, countdown=0.5)
    private_redis.kill()
    private_redis.start()
    fragile.worker("-c", "1")
    assert (ready.get(timeout=WAIT), delayed.get(timeout=WAIT)) == (2, 3)


def test_a_broker_that_hangs_for_a_moment_makes_nobody_run_twice(fragile: Site, private_redis: PrivateRedis):
    worker = fragile.worker("-c", "1", worker_lease=1.0)
    result = fragile.send("holds", "gate")
    fragile.wait_note(result, "start")
    other = fragile.worker("-c", "1", worker_lease=1.0)
    with private_redis.frozen():
        until = time.monotonic() + 2.5  # longer than the lease
        wait_until(lambda: time.monotonic() > until)
    assert fragile.send("add", 1).get(timeout=WAIT) == 2
    fragile.open("gate")
    result.get(timeout=WAIT)
    assert len(fragile.notes(result, "start")) == 1
    assert (worker.stop(), other.stop()) == (0, 0)


def test_a_worker_whose_broker_stays_away_exits_with_an_error(fragile: Site, private_redis: PrivateRedis):
    worker = fragile.worker("-c", "1", broker_connection_lost_timeout=0.5, worker_lease=1.0)
    private_redis.stop()
    assert worker.exit_code() == 69
    assert "the broker has been away for too long" in worker.log()


def test_a_worker_without_its_broker_can_be_stopped(fragile: Site, private_redis: PrivateRedis):
    worker = fragile.worker("-c", "1")
    private_redis.stop()
    worker.wait_log("Cannot connect to")
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 15.0


def test_a_result_store_that_is_away_fails_no_send_and_loses_no_result(
    private_redis: PrivateRedis, tmp_path: Path
):
    site = Site(tmp_path, f"sqlite:///{tmp_path}/queue.sqlite", result_backend=private_redis.url)
    private_redis.stop()
    result = site.send("add", 1, 2)
    worker = site.worker("-c", "1")
    site.wait_note(result, "add")
    worker.wait_log("Cannot connect to")
    assert site.stats().running == 1
    private_redis.start()
    assert result.get(timeout=WAIT) == 3
    site.wait_empty()
    assert len(site.notes(result)) == 1
    site.close()


@contextlib.contextmanager
def stopped(server: PrivateRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@pytest.mark.parametrize("is_away", [stopped, PrivateRedis.frozen], ids=["gone", "hangs"])
def test_a_result_store_that_is_away_holds_up_no_run_for_its_started_state(
    private_redis: PrivateRedis,
    tmp_path: Path,
    is_away: Callable[[PrivateRedis], AbstractContextManager[None]],
):
    results = f"{private_redis.url}?socket_timeout=1"
    site = Site(tmp_path, f"sqlite:///{tmp_path}/queue.sqlite", result_backend=results)
    worker = site.worker("-c", "1")
    with is_away(private_redis):
        result = site.send("tracked", "gate")
        worker.wait_log("its state STARTED was not stored")
        assert site.stats().running == 1
        site.open("gate")
        # It has run, and its end waits for the store.
        worker.wait_log("Cannot connect to")
    assert result.get(timeout=WAIT)
    site.wait_empty()
    assert "received" in worker.log() and worker.log().count("STARTED") == 1 and site.stats().dead == 0
    site.close()


def overtake(site: Site, task: str) -> tuple[Worker, AsyncResult, int]:
    """Pause a worker in a run of that task until another has ended the task, then let it go on.

    Returns the worker that was paused, the result, and the process id that the other's run returned.
    """
    paused = site.worker("-c", "1", worker_lease=1.0)
    result = site.send(task, "gate")
    first = site.wait_note(result, "start")
    with paused.paused():
        site.worker("-c", "1", worker_lease=1.0)
        again = site.wait_note(result, "start", 2)
        site.open("gate")
        assert result.get(timeout=WAIT) == again["pid"] != first["pid"]
    paused.wait_log("its end was refused")
    return paused, result, again["pid"]


def test_a_worker_that_was_paused_cannot_settle_what_others_have_taken(site: Site):
    paused, result, pid = overtake(site, "holds")
    # The late end of the paused run changes nothing, and its worker goes on.
    assert result.get(timeout=WAIT) == pid
    assert site.app.AsyncResult(result.id).get(timeout=WAIT) == pid
    site.wait_empty()
    assert paused.stop() == 0 and site.stats().dead == 0


def test_a_worker_that_was_paused_writes_no_state_over_anothers_end(site: Site):
    _, result, pid = overtake(site, "says_late")
    assert len(site.notes(result, "said")) == 2
    late = site.app.AsyncResult(result.id)
    assert (late.state, late.result) == ("SUCCESS", pid)


def test_a_worker_behind_a_pooler_asks_for_what_it_is_not_told(postgres_pooled: str, tmp_path: Path):
    site = Site(tmp_path, postgres_pooled)
    worker = site.worker("-c", "4", worker_lease=3.0)
    assert [site.send("add", n, 1).get(timeout=WAIT) for n in range(3)] == [1, 2, 3]
    results = [site.send("plain", n) for n in range(300)]
    held = site.send("holds", "gate")
    site.wait_note(held, "start")
    held.revoke(terminate=True)
    site.wait_empty()
    assert {note["id"] for note in site.notes(what="plain")} == {result.id for result in results}
    assert held.state == "REVOKED"
    assert worker.stop() == 0
    site.close()
