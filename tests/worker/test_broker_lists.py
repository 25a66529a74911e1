"""A list of brokers: all go to the next one while the first is away, and nothing is lost or run twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT, Site, wait_until
from tests.postgres import PrivatePostgres
from tests.private_rabbitmq import PrivateRabbit
from tests.servers import PrivateRedis

from celeriac import Celeriac, brokers
from celeriac.async_result import AsyncResult
from celeriac.brokers.contract import Broker

Server = PrivateRedis | PrivatePostgres | PrivateRabbit
Two = tuple[Site, Server, Server]
#: A worker looks what has come to the other brokers three times in a lease.
SOON: dict[str, Any] = {"worker_lease": 3.0, "broker_failover_after": 0.5}


@pytest.fixture(
    params=["redis", "postgres", pytest.param("rabbitmq", marks=pytest.mark.private_rabbitmq)],
)
def server(request: pytest.FixtureRequest) -> Callable[[], Server]:
    """Starts servers of one kind, which remember what they have confirmed."""
    if request.param == "redis":
        make: Callable[..., PrivateRedis] = request.getfixturevalue("make_private_redis")
        return lambda: make(appendonly=True)
    return request.getfixturevalue(
        "make_private_rabbit" if request.param == "rabbitmq" else "make_private_postgres"
    )


@pytest.fixture
def two(server: Callable[[], Server], tmp_path: Path) -> Iterator[Two]:
    """A site with two brokers, and results in a third place."""
    first, second = server(), server()
    site = Site(
        tmp_path, f"{first.url};{second.url}", result_backend=f"sqlite:///{tmp_path}/results.sqlite", **SOON
    )
    yield site, first, second
    site.close()


def has_run(site: Site, results: list[AsyncResult]) -> bool:
    """Whether each of them has noted that it ran."""
    return {note["id"] for note in site.notes(what="plain")} >= {result.id for result in results}


def kept(server: Server) -> tuple[int, int, int, int]:
    """How many messages wait there, are delayed, run, and are dead."""
    if isinstance(server, PrivateRabbit):
        work = server.work()
        return sum(work.ready.values()), work.delayed, work.held, 0
    broker = brokers.connect(server.url)
    try:
        stats = broker.stats("celery")
        return stats.ready, stats.delayed or 0, stats.running or 0, stats.dead
    finally:
        broker.close()


def is_empty(server: Server) -> bool:
    """Whether nothing is left at this broker."""
    return not any(kept(server))


def place(server: Server) -> str:
    broker: Broker = brokers.connect(server.url)
    return broker.place


@pytest.mark.timeout(240)
@pytest.mark.parametrize("flags", [("-c", "3"), ("-P", "threads", "-c", "3")], ids=["prefork", "threads"])
def test_workers_and_senders_go_to_the_next_broker_and_return(two: Two, flags: tuple[str, ...]):
    site, first, second = two
    worker = site.worker(*flags)
    held, once = site.send("holds", "gate"), site.send("holds_once", "gate")
    for result in (held, once):
        site.wait_note(result, "start")
    before = [site.send("plain", number) for number in range(50)]
    first.kill()
    during = [site.send("plain", number) for number in range(50)]
    worker.wait_log(f"takes from {place(second)} now")
    # Two of three slots are still busy with what was taken at the first.
    wait_until(lambda: has_run(site, during), site.told)
    site.open("gate")
    for result in (held, once):
        site.wait_note(result, "end")
    more = [site.send("plain", number) for number in range(50)]
    wait_until(lambda: has_run(site, more), site.told)
    later = site.call("plain", "later", countdown=3600)
    first.start()
    worker.wait_log(f"takes from {place(first)} now")
    wait_until(lambda: has_run(site, before), site.told)
    # They ended while their broker was away, and kept their ends until then.
    assert all(result.get(timeout=WAIT) is not None for result in (held, once))
    if isinstance(first, PrivateRabbit):
        # What is scheduled there is moved when it is due.
        wait_until(lambda: (kept(first), kept(second)) == ((0, 0, 0, 0), (0, 1, 0, 0)), site.told)
    else:
        worker.wait_log(f"1 messages moved from {place(second)} to {place(first)}")
        wait_until(lambda: (kept(first), kept(second)) == ((0, 1, 0, 0), (0, 0, 0, 0)), site.told)
    assert site.notes(later) == []
    times = Counter(note["id"] for note in site.notes(what="plain"))
    if isinstance(first, PrivateRabbit):
        # What a killed server was moving may be in both places afterwards: docs/guarantees.md#rabbitmq.
        moved = [result.id for result in before if times[result.id] == 2]
        assert len(moved) <= 2
        times.subtract(moved)
    assert times == dict.fromkeys((result.id for result in before + during + more), 1)
    assert [len(site.notes(result, "start")) for result in (held, once)] == [1, 1]
    assert worker.stop() == 0


def test_what_comes_to_another_broker_is_moved_to_where_workers_take(two: Two):
    site, first, second = two
    site.worker("-c", "1")
    with Celeriac("other", broker=second.url, set_as_current=False) as other:
        sent = [other.send_task("workload.plain", [number]) for number in range(20)]
        sent.append(other.send_task("workload.plain", ["soon"], countdown=0.5))
        wait_until(lambda: has_run(site, sent), site.told)
        wait_until(lambda: is_empty(second), site.told)
    wait_until(lambda: is_empty(first), site.told)
    assert len(site.notes(what="plain")) == 21


def test_what_is_revoked_at_another_broker_does_not_run(two: Two):
    site, _, second = two
    with Celeriac("other", broker=second.url, set_as_current=False) as other:
        sent = other.send_task("workload.plain", ["revoked"], countdown=2)
        other.control.revoke(sent.id)
        site.worker("-c", "1")
        last = other.send_task("workload.plain", ["last"], countdown=2)
        wait_until(lambda: has_run(site, [last]), site.told)
    assert site.notes(sent) == []


def test_a_worker_that_starts_without_the_first_takes_at_the_next(two: Two):
    site, first, second = two
    first.kill()
    sent = site.send("plain", 1)
    # What waits there is not put aside for the first, which is not there to have it.
    worker = site.worker("-c", "1", ready=False, broker_connection_retry_on_startup=False)
    wait_until(lambda: has_run(site, [sent]), site.told)
    assert f"takes from {place(second)} now" in worker.log()
    assert worker.stop() == 0


def test_a_worker_without_any_broker_gives_up(two: Two):
    site, first, second = two
    worker = site.worker("-c", "1", broker_connection_lost_timeout=3)
    first.kill()
    worker.wait_log(f"takes from {place(second)} now")
    second.kill()
    assert worker.exit_code() == 69


def test_a_worker_is_reached_by_any_of_its_brokers(two: Two):
    site, first, second = two
    site.worker("-c", "1")
    for server in (first, second):
        with Celeriac("asks", broker=server.url, set_as_current=False) as asking:
            # It takes as soon as it has one of them; it may hear at the other a moment later.
            wait_until(lambda: asking.control.ping(timeout=1.0, limit=1), site.told)
            assert asking.control.ping(timeout=WAIT, limit=1) == [{"w1@test": {"ok": "pong"}}]


def test_a_run_at_the_lost_broker_is_not_killed_for_it(two: Two):
    """The worker has moved on, stops, and what had ended is run again: it could not be settled."""
    site, first, second = two
    worker = site.worker("-c", "1", worker_shutdown_timeout=1)
    held = site.send("holds", "gate")
    site.wait_note(held, "start")
    first.kill()
    worker.wait_log(f"takes from {place(second)} now")
    # Its one process is busy.
    sent = site.send("plain", 1)
    assert site.notes(sent) == []
    site.open("gate")
    # Now it waits for the first broker, which keeps nobody from taking at the second.
    wait_until(lambda: has_run(site, [sent]), site.told)
    assert worker.stop() == 0
    first.start()
    site.worker("-c", "1")
    site.wait_note(held, "start", 2)
    assert held.get(timeout=WAIT) is not None


# A PostgreSQL server has a process for each connection, which would hang one by one.
@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_a_sender_does_not_wait_for_a_broker_that_hangs(two: Two):
    site, first, second = two
    assert isinstance(first, PrivateRedis)
    with first.frozen():
        sent = [site.send("plain", number) for number in range(5)]
        there = brokers.connect(second.url)
        assert there.stats("celery").ready == 5
        there.close()
    site.worker("-c", "1")
    wait_until(lambda: has_run(site, sent), site.told)
