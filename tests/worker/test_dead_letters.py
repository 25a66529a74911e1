"""Dead letters: they are told of, kept within limits, and what is lost is counted."""

from __future__ import annotations

import pytest
from harness import WAIT, Site, wait_until

from celeriac import message, states
from celeriac.brokers.contract import Outgoing
from celeriac.canvas import chain
from celeriac.exceptions import DecodeError, NotRegistered, WorkerLostError


def test_of_too_many_dead_letters_the_oldest_are_evicted_and_counted(site: Site):
    first = site.worker("-c", "1", worker_lease=1.0, task_dead_letter_max=2)
    second = site.worker("-c", "1", worker_lease=1.0, task_dead_letter_max=2)
    for _ in range(5):
        site.send("rejects")
    wait_until(lambda: site.stats().evicted == 3, site.told)
    assert (site.stats().dead, len(site.broker.dead("celery"))) == (2, 2)
    wait_until(lambda: "more than task_dead_letter_max" in first.log() + second.log(), site.told)


def test_a_dead_letter_is_evicted_when_its_time_is_over(site: Site):
    worker = site.worker("-c", "1", worker_lease=1.0, task_dead_letter_expires=2.0)
    rejected = site.send("rejects")
    site.wait_dead()
    worker.wait_log("had been kept for task_dead_letter_expires")
    assert rejected.id in worker.log().rpartition("The oldest was")[2]
    assert (site.stats().dead, site.stats().evicted) == (0, 1)


def test_whoever_waits_for_poison_is_told_that_it_is_a_dead_letter(site: Site):
    site.worker("-c", "1")
    poison = site.send("dies", "SIGKILL")
    with pytest.raises(WorkerLostError, match=f"died 3 times.*SIGKILL.*celeriac dead show {poison.id}"):
        poison.get(timeout=WAIT)
    (letter,) = site.wait_dead()
    assert (
        letter.reason == "crashed" and letter.detail == "its process died 3 times, last by signal 9 (SIGKILL)"
    )
    assert poison.state == states.FAILURE and len(site.notes(poison, "dies")) == 3


def test_so_is_whoever_waits_for_a_task_that_nobody_knows(site: Site):
    site.worker("-c", "1", task_unknown_grace=0.4)
    unknown = site.app.send_task("workload.no_such_task", link_error=site.task("add").si(1))
    with pytest.raises(NotRegistered, match=f"no worker.*no_such_task.*celeriac dead show {unknown.id}"):
        unknown.get(timeout=WAIT)
    (letter,) = site.wait_dead()
    assert letter.reason == "unknown task"


def test_so_is_whoever_waits_for_what_cannot_be_read(site: Site):
    data = message.encode(message.Message(message.new_key(), "workload.add", (1,)))
    site.broker.send([Outgoing("celery", data[:-3])], 5.0)
    site.worker("-c", "1")
    unreadable = site.app.AsyncResult(message.id_of(data[message.KEY]))
    with pytest.raises(DecodeError, match=f"celeriac dead show {unreadable.id}"):
        unreadable.get(timeout=WAIT)
    (letter,) = site.wait_dead()
    assert letter.reason == "unreadable"


def test_where_results_are_kept_elsewhere_he_is_told_as_well(tmp_path):
    site = Site(
        tmp_path, f"sqlite:///{tmp_path}/queue.sqlite", result_backend=f"sqlite:///{tmp_path}/results.sqlite"
    )
    try:
        site.worker("-c", "1", task_max_deliveries=1)
        poison = site.send("dies", "SIGKILL")
        with pytest.raises(WorkerLostError, match="dead show"):
            poison.get(timeout=WAIT)
    finally:
        site.close()


def test_the_steps_behind_poison_fail_with_it_and_its_error_callbacks_run(site: Site):
    site.worker("-c", "1", task_max_deliveries=1)
    poison = site.task("dies").si("SIGKILL").on_error(site.task("plain").si("told"))
    last = chain(poison, site.task("add").si(1)).apply_async()
    with pytest.raises(WorkerLostError, match="dead show"):
        last.get(timeout=WAIT)
    wait_until(lambda: site.notes(None, "plain"), site.told)


def test_a_replayed_letter_has_the_result_of_its_new_run(site: Site):
    site.worker("-c", "1", task_max_deliveries=1)
    result = site.send("dies_once", "SIGKILL", "died")
    with pytest.raises(WorkerLostError):
        result.get(timeout=WAIT)
    (letter,) = site.wait_dead()
    assert site.broker.replay("celery", [letter.key]) == 1
    again = site.app.AsyncResult(result.id)
    assert again.get(timeout=WAIT) == "survived"
    assert site.stats().dead == 0


def test_an_error_callback_that_kills_its_process_ends_in_the_dead_letters_too(site: Site):
    site.worker("-c", "1", task_max_deliveries=1)
    site.send("dies_and_so_does_its_hook")
    (letter,) = site.wait_dead()
    assert letter.reason == "crashed" and len(letter.casualties) == 4
    assert site.send("add", 1).get(timeout=WAIT) == 2
