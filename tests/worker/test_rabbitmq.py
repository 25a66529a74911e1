"""Workers at a RabbitMQ server, with results elsewhere: what holds at the other brokers holds here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import workload
from harness import WAIT, Site, wait_until
from tests import rabbitmq

from celeriac import Celeriac, Queue, clock, states
from celeriac.exceptions import QueueFull, TaskRevokedError, WorkerLostError

pytestmark = rabbitmq.MARKS


@pytest.fixture(params=["rabbitmq_place", "rabbitmq_classic_place"], ids=["quorum", "classic"])
def rabbit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site whose messages are at RabbitMQ, and whose results are in a file."""
    url = request.getfixturevalue(request.param)
    site = Site(tmp_path, url, **rabbitmq.settings(tmp_path))
    yield site
    site.close()


def is_done(site: Site) -> bool:
    """Whether nothing waits. What is delayed or held is not told by this broker."""
    return site.stats().ready == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio", "solo"])
def test_tasks_run_once_each_and_give_their_results(rabbit: Site, pool: str):
    results = [rabbit.send("add", number) for number in range(200)]
    rabbit.worker("-P", pool, "-c", "1" if pool == "solo" else "2")
    assert [result.get(timeout=WAIT) for result in results] == list(range(1, 201))
    assert len(rabbit.notes(what="add")) == 200
    assert is_done(rabbit)


def test_a_delayed_task_comes_when_it_is_due(rabbit: Site):
    rabbit.worker("-c", "1")
    due = clock.now() + 1.0
    result = rabbit.call("add", 1, countdown=1.0)
    assert result.get(timeout=WAIT) == 2
    assert clock.now() >= due


def test_a_retry_waits_for_its_countdown_and_runs_under_its_id(rabbit: Site):
    rabbit.worker("-c", "1")
    result = rabbit.send("succeeds_at", 2, 0.3)
    assert result.get(timeout=WAIT)["retries"] == 2
    first, second, third = (note["at"] for note in rabbit.notes(result, "run"))
    assert second - first > 0.25 < third - second


def test_links_follow(rabbit: Site):
    rabbit.worker("-c", "1")
    add = rabbit.task("add")
    assert (add.s(1, 2) | add.s(3) | add.s(4)).apply_async().get(timeout=WAIT) == 10


def test_a_killed_childs_task_runs_again(rabbit: Site):
    rabbit.worker("-c", "2")
    result = rabbit.send("holds", "gate")
    first = rabbit.wait_note(result, "start")
    os.kill(first["pid"], signal.SIGKILL)
    again = rabbit.wait_note(result, "start", 2)
    assert again["pid"] != first["pid"]
    assert again["crashes"] == 1
    rabbit.open("gate")
    assert result.get(timeout=WAIT) == again["pid"]
    assert len(rabbit.notes(result, "start")) == 2


def test_neighbours_of_a_killed_run_run_exactly_once(rabbit: Site):
    before = [rabbit.send("plain", number) for number in range(5)]
    killer = rabbit.send("dies_once", "SIGKILL", "died")
    after = [rabbit.send("plain", number) for number in range(5, 10)]
    rabbit.worker("-c", "1", worker_prefetch_multiplier=20)
    assert killer.get(timeout=WAIT) == "survived"
    wait_until(lambda: all(rabbit.notes(result) for result in before + after), rabbit.told)
    wait_until(lambda: is_done(rabbit), rabbit.told)
    assert [len(rabbit.notes(result)) for result in before + after] == [1] * 10
    assert len(rabbit.notes(killer)) == 2


def test_a_task_that_kills_its_process_ends_as_a_dead_letter(rabbit: Site):
    rabbit.worker("-c", "1")
    poison = rabbit.send("dies", "SIGKILL")
    (letter,) = rabbit.wait_dead()
    assert len(rabbit.notes(poison, "dies")) == 3
    assert letter.reason == "crashed"
    assert [casualty.cause for casualty in letter.casualties] == ["signal 9 (SIGKILL)"] * 3


def test_another_worker_takes_over_from_one_that_vanished(rabbit: Site):
    vanishing = rabbit.worker("-c", "1", worker_lease=2.0)
    result = rabbit.send("holds", "gate")
    rabbit.wait_note(result, "start")
    rabbit.worker("-c", "1", worker_lease=2.0)
    vanishing.kill()
    again = rabbit.wait_note(result, "start", 2)
    assert again["hostname"] == "w2@test"
    rabbit.open("gate")
    assert result.get(timeout=WAIT) == again["pid"]


def test_a_connection_that_the_server_cuts_off_costs_no_run(rabbit: Site):
    """The whole worker stands still for longer than the server waits for signs of life."""
    worker = rabbit.worker("-c", "1", worker_lease=3.0)
    result = rabbit.send("holds", "gate")
    rabbit.wait_note(result, "start")
    with worker.paused():
        time.sleep(6.0)
    rabbit.open("gate")
    result.get(timeout=WAIT)
    assert rabbit.send("add", 1).get(timeout=WAIT) == 2
    assert len(rabbit.notes(result, "start")) == 1


def test_a_run_that_must_not_be_repeated_is_not(rabbit: Site):
    rabbit.worker("-c", "1")
    result = rabbit.send("holds_once", "gate")
    os.kill(rabbit.wait_note(result, "start")["pid"], signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        result.get(timeout=WAIT)
    assert len(rabbit.notes(result, "start")) == 1


def test_a_waiting_task_that_is_revoked_does_not_run(rabbit: Site):
    result, other = rabbit.send("add", 1), rabbit.send("add", 2)
    result.revoke()
    rabbit.worker("-c", "1")
    assert other.get(timeout=WAIT) == 3
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT)
    assert result.state == states.REVOKED
    assert rabbit.notes(result) == []


def test_a_worker_that_stops_gives_back_what_it_has_not_begun(rabbit: Site):
    worker = rabbit.worker("-c", "1", worker_prefetch_multiplier=10)
    held = rabbit.send("holds", "gate")
    rabbit.wait_note(held, "start")
    waiting = [rabbit.send("add", number) for number in range(5)]
    worker.send_signal(signal.SIGTERM)
    rabbit.open("gate")
    assert worker.exit_code() == 0
    wait_until(lambda: rabbit.stats().ready == 5, rabbit.told)
    rabbit.worker("-c", "1")
    assert [result.get(timeout=WAIT) for result in waiting] == [1, 2, 3, 4, 5]


def test_what_comes_to_a_later_broker_of_the_list_is_moved_to_where_workers_take(
    rabbitmq_place: str, rabbitmq_classic_place: str, tmp_path: Path
):
    site = Site(tmp_path, f"{rabbitmq_place};{rabbitmq_classic_place}", **rabbitmq.settings(tmp_path))
    site.worker("-c", "1", worker_lease=3.0)
    with Celeriac("other", broker=rabbitmq_classic_place, set_as_current=False) as other:
        sent = [other.send_task("workload.plain", [number]) for number in range(20)]
        sent.append(other.send_task("workload.plain", ["soon"], countdown=0.5))
    wait_until(lambda: all(site.notes(result) for result in sent), site.told)
    site.workers[0].wait_log("moved")
    assert len(site.notes(what="plain")) == 21
    site.close()


def test_a_full_queue_refuses_what_is_sent_and_keeps_what_there_is(rabbit: Site):
    with workload.make_app(rabbit.url, task_queues=[Queue("celery", max_length=3)]) as app:
        add = app.tasks["workload.add"]
        for number in range(3):
            add.delay(number)
        with pytest.raises(QueueFull, match="'celery' is full: its max_length is 3"):
            add.delay(3)
    rabbit.worker("-c", "1")
    wait_until(lambda: len(rabbit.notes(what="add")) == 3, rabbit.told)
    assert rabbit.send("add", 4).get(timeout=WAIT) == 5
