"""Revoked tasks do not run, whoever is up; running ones end when that is wished, in every pool."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import WAIT, Site, wait_until
from tests.servers import PrivateRedis

from celeriac import message, states
from celeriac.async_result import AsyncResult
from celeriac.exceptions import TaskRevokedError
from celeriac.result_sets import ResultSet
from celeriac.workflow.chain import chain

POOLS = (("prefork", "1"), ("solo", "1"), ("threads", "2"), ("gevent", "2"), ("asyncio", "2"))
GRACE = 0.5
#: What is promised holds on a machine at rest; a loaded one is given more before a test fails.
LENIENT = 4.0


@pytest.fixture(params=POOLS, ids=[pool for pool, _ in POOLS])
def pool(request: pytest.FixtureRequest, sqlite_site: Site) -> Site:
    """A site whose worker has this pool; revoked runs have half a second."""
    name, concurrency = request.param
    sqlite_site.worker("-P", name, "-c", concurrency, worker_revoke_grace=GRACE)
    return sqlite_site


def refuse(result: AsyncResult, reason: str = "revoked") -> None:
    """Whoever waits is told so."""
    with pytest.raises(TaskRevokedError, match=reason):
        result.get(timeout=WAIT)
    assert result.state == states.REVOKED


def took(since: float) -> float:
    return time.monotonic() - since


# -- what waits -----------------------------------------------------------------------------------------------


def test_what_waits_ends_at_once_with_all_workers_down(site: Site):
    ready, delayed = site.send("add", 1), site.call("add", 2, countdown=3600)
    other = site.send("add", 3)
    began = time.monotonic()
    ready.revoke()
    delayed.revoke()
    refuse(ready)
    refuse(delayed)
    assert took(began) < 1.0 + LENIENT
    worker = site.worker("-c", "1")
    assert other.get(timeout=WAIT) == 4
    site.wait_empty()
    assert site.notes(ready) == site.notes(delayed) == []
    wait_until(lambda: worker.log().count("Discarding revoked task") == 2, worker.log)
    assert ready.state == delayed.state == states.REVOKED and site.stats().dead == 0


def test_it_holds_for_what_is_sent_later_and_over_restarts(site: Site):
    site.worker("-c", "1").stop()
    site.send("add", 0).revoke()
    task_id = message.new_id()
    site.app.control.revoke(task_id)
    site.worker("-c", "1").stop()
    result = site.call("add", 1, task_id=task_id)
    site.worker("-c", "1")
    refuse(result)
    assert site.notes(result) == []


def test_every_queue_is_searched(site: Site):
    result = site.call("add", 1, queue="letters")
    site.app.control.revoke([message.new_id(), result.id])
    refuse(result)
    assert site.app.broker.revoked("letters") != []


def test_a_workers_end_of_it_is_the_same(site: Site):
    """The record that the revoker stores, and the one of the worker that takes the message."""
    result = site.send("add", 1)
    result.revoke()
    stored = site.app.backend.get_task_meta(result.id)
    site.worker("-c", "1")
    site.wait_empty()
    again = site.app.backend.get_task_meta(result.id)
    for meta in (stored, again):
        meta.pop("date_done")
        meta["result"] = repr(meta["result"])
    assert again == stored


def test_many_at_once(site: Site):
    results = [site.send("add", n) for n in range(1500)]
    began = time.monotonic()
    ResultSet(results[::2], app=site.app).revoke()
    for result in results[::2]:
        refuse(result)
    assert took(began) < 2.0 + LENIENT
    site.worker("-c", "1")
    assert [result.get(timeout=WAIT) for result in results[1::2]] == [n + 1 for n in range(1500)][1::2]
    site.wait_empty()
    assert not {line["id"] for line in site.notes()} & {result.id for result in results[::2]}


def test_the_later_steps_of_a_chain_are_told(site: Site):
    last = chain(site.task("add").s(1), site.task("add").s(2)).apply_async()
    assert last.parent is not None
    last.parent.revoke()
    refuse(last.parent)
    site.worker("-c", "1")
    wait_until(lambda: last.state == states.REVOKED, site.told)


def test_where_results_are_kept_what_is_yet_to_be_sent_ends_at_once_and_what_runs_does_not(site: Site):
    site.app.conf.task_ignore_result = False
    site.worker("-c", "1")
    last = chain(site.task("holds").s("gate"), site.task("add").si(2)).apply_async()
    assert last.parent is not None
    site.wait_note(last.parent, "start")
    site.app.control.revoke([last.id, last.parent.id])
    began = time.monotonic()
    refuse(last)
    assert took(began) < 1.0 + LENIENT and last.parent.state == states.PENDING
    site.open("gate")
    assert isinstance(last.parent.get(timeout=WAIT), int)
    site.wait_empty()
    assert site.notes(last) == [] and last.state == states.REVOKED


# -- what is held ---------------------------------------------------------------------------------------------


def test_what_waits_behind_a_run_does_not_start(site: Site):
    site.worker("-c", "1", worker_prefetch_multiplier=10)
    running = site.send("holds", "gate")
    held = [site.send("add", n) for n in range(6)]
    site.wait_note(running, "start")
    for result in held[::2]:
        result.revoke()
    began = time.monotonic()
    for result in held[::2]:
        refuse(result)
    assert took(began) < 1.0 + LENIENT
    site.open("gate")
    running.get(timeout=WAIT)
    assert [result.get(timeout=WAIT) for result in held[1::2]] == [2, 4, 6]
    site.wait_empty()
    assert all(site.notes(result) == [] for result in held[::2])


@pytest.mark.parametrize("name", ["prefork", "threads"])
def test_of_those_that_pass_each_runs_or_is_revoked(site: Site, name: str):
    site.worker("-P", name, "-c", "2", worker_prefetch_multiplier=50)
    results = [site.send("sleeps", 0.02) for _ in range(300)]
    site.wait_note(results[5], "start")
    ResultSet(results, app=site.app).revoke(wait=True)
    for result in results:
        result.get(timeout=WAIT, propagate=False)
    began = {line["id"] for line in site.notes(what="start")}
    assert began == {result.id for result in results if result.state == states.SUCCESS}
    assert {result.state for result in results} == {states.SUCCESS, states.REVOKED}
    assert len(began) < 290
    site.wait_empty()


def test_a_worker_that_takes_no_remote_control_runs_nothing_revoked(site: Site):
    site.worker("-c", "1", worker_enable_remote_control=False, worker_prefetch_multiplier=10)
    running, held = site.send("holds", "gate"), site.send("add", 1)
    site.wait_note(running, "start")
    wait_until(lambda: site.stats().ready == 1)
    held.revoke()
    refuse(held)
    site.open("gate")
    running.get(timeout=WAIT)
    site.wait_empty()
    assert site.notes(held) == []


# -- what runs ------------------------------------------------------------------------------------------------


def test_a_run_goes_on_unless_it_is_terminated(pool: Site):
    result = pool.send("holds", "gate")
    pool.wait_note(result, "start")
    result.revoke(wait=True)
    pool.open("gate")
    result.get(timeout=WAIT)
    assert pool.notes(result, "end") != []


def test_its_retry_does_not_run(site: Site):
    site.worker("-c", "1")
    result = site.send("waits_for_retry", "gate")
    site.wait_note(result, "run", 2)
    result.revoke()
    refuse(result)
    site.wait_empty()


def test_a_run_that_is_told_cleans_up(pool: Site):
    result = pool.send("ends_in_order", 30)
    pool.wait_note(result, "start")
    began = time.monotonic()
    result.revoke(terminate=True)
    refuse(result, "terminated")
    assert took(began) < 1.0 + LENIENT
    (told,) = pool.notes(result)[1:]
    assert told["what"] == "told"
    assert pool.send("about").get(timeout=WAIT)["pid"] == told["pid"]


def test_one_that_ends_by_itself_when_it_is_told_ends_as_it_says(pool: Site):
    returns, fails = pool.send("ends_in_order", 30, "half"), pool.send("ends_in_order", 30, "fail")
    for result in (returns, fails):
        pool.wait_note(result, "start")
        pool.app.control.terminate(result.id)
        pool.wait_note(result, "told")
    assert returns.get(timeout=WAIT) == "half"
    # It asks for a retry, and that is revoked.
    refuse(fails)


@pytest.mark.parametrize("name", ["catches_all", "keeps_the_interpreter"])
def test_one_that_does_not_listen_is_ended(pool: Site, name: str):
    result = pool.send(name, 30)
    started = pool.wait_note(result, "start")["at"]
    result.revoke(terminate=True)
    refuse(result, "terminated")
    after = pool.send("add", 1)
    assert after.get(timeout=WAIT) == 2
    assert GRACE - 0.1 <= pool.notes(after)[0]["at"] - started < GRACE + 1.0 + LENIENT
    pool.wait_empty()
    assert len(pool.notes(result, "start")) == 1 and pool.stats().dead == 0


@pytest.mark.parametrize(("name", "concurrency"), POOLS)
def test_sigkill_ends_it_at_once(sqlite_site: Site, name: str, concurrency: str):
    sqlite_site.worker("-P", name, "-c", concurrency, worker_revoke_grace=60)
    result = sqlite_site.send("catches_all", 60)
    sqlite_site.wait_note(result, "start")
    sqlite_site.app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    refuse(result, "terminated")
    assert sqlite_site.notes(result, "caught") == [] or name == "gevent"


@pytest.mark.parametrize(("name", "concurrency"), POOLS)
def test_a_coroutine_is_told_where_it_waits(sqlite_site: Site, name: str, concurrency: str):
    sqlite_site.worker("-P", name, "-c", concurrency)
    result = sqlite_site.send("waits_in_a_coroutine", 30)
    sqlite_site.wait_note(result, "start")
    result.revoke(terminate=True)
    refuse(result, "terminated")
    assert sqlite_site.notes(result, "told") != []
    assert sqlite_site.send("sums_later", 1, 2).get(timeout=WAIT) == 3
    assert len(sqlite_site.notes(result)) == 2


def test_neighbours_in_threads_finish(site: Site):
    worker = site.worker("-P", "threads", "-c", "3", worker_revoke_grace=0.2)
    neighbour = site.send("holds", "gate")
    site.wait_note(neighbour, "start")
    result = site.send("sleeps", 60)
    old = site.wait_note(result, "start")["pid"]
    result.revoke(terminate=True)
    refuse(result, "terminated")
    wait_until(lambda: worker.children() != [old], worker.log)
    site.open("gate")
    assert neighbour.get(timeout=WAIT) == old
    wait_until(lambda: old not in worker.children(), worker.log)
    assert len(site.notes(neighbour, "start")) == 1


def test_neighbours_in_other_processes_hear_nothing(site: Site):
    worker = site.worker("-c", "2", worker_revoke_grace=0.2)
    neighbour, result = site.send("holds", "gate"), site.send("catches_all", 60)
    site.wait_note(neighbour, "start")
    site.wait_note(result, "start")
    result.revoke(terminate=True)
    refuse(result, "terminated")
    site.open("gate")
    assert neighbour.get(timeout=WAIT) != site.notes(result, "start")[0]["pid"]
    worker.wait_log("revoked with terminate")


@pytest.fixture
def private_site(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Site]:
    """A site on a server of its own."""
    site = Site(tmp_path, private_redis.url)
    yield site
    site.close()


def test_what_was_told_while_the_supervisor_did_not_listen_is_looked_up(
    private_site: Site, private_redis: PrivateRedis
):
    worker = private_site.worker("-c", "1", worker_revoke_grace=GRACE)
    result = private_site.send("ends_in_order", 60)
    private_site.wait_note(result, "start")
    os.kill(worker.pid, signal.SIGSTOP)
    with private_redis.client() as client:
        client.call("CLIENT", "KILL", "TYPE", "pubsub")
    result.revoke(terminate=True)
    os.kill(worker.pid, signal.SIGCONT)
    refuse(result, "terminated")
    assert private_site.notes(result, "told") != []
