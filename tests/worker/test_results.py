"""What a caller learns of a run: values, states, errors, and how long they are kept."""

from __future__ import annotations

import time

import pytest
from harness import WAIT, Site, wait_until
from workload import OutOfStock

from celeriac import states
from celeriac.exceptions import EncodeError, ResultNotStored, TimeoutError, UnrebuiltError


def test_return_values_are_dropped_unless_asked_for(shared: Site):
    result = shared.send("plain", "dropped")
    shared.wait_note(result, "plain")
    shared.wait_empty()
    assert result.state == states.PENDING
    with pytest.raises(ResultNotStored):
        result.get(timeout=WAIT)


def test_errors_are_kept_even_so(shared: Site):
    result = shared.send("plain_failure")
    wait_until(result.failed, lambda: result.state)
    assert isinstance(result.result, ValueError) and "nobody asked" in result.traceback


def test_the_caller_may_ask_for_a_value_that_the_task_drops(shared: Site):
    assert shared.call("plain", "kept", ignore_result=False).get(timeout=WAIT) == "kept"


def test_the_caller_may_drop_a_value_that_the_task_keeps(shared: Site):
    result = shared.call("add", 1, 2, ignore_result=True)
    shared.wait_note(result, "add")
    shared.wait_empty()
    assert result.state == states.PENDING


def test_waiting_has_a_limit(shared: Site):
    result = shared.call("add", 1, 2, queue="nobody")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    shared.broker.purge("nobody")


def test_a_task_may_not_wait_for_another(shared: Site):
    with pytest.raises(RuntimeError, match=r"(?i)result|task"):
        shared.send("waits_for_another").get(timeout=WAIT)


def test_an_error_of_the_application_is_rebuilt(shared: Site):
    with pytest.raises(OutOfStock) as failure:
        shared.send("runs_out").get(timeout=WAIT)
    assert (failure.value.item, failure.value.wanted) == ("tea", 3)


def test_the_traceback_is_kept_as_text(shared: Site):
    result = shared.send("runs_out")
    with pytest.raises(OutOfStock):
        result.get(timeout=WAIT)
    assert result.traceback.startswith("Traceback (most recent call last):")
    assert "in runs_out" in result.traceback and "OutOfStock: ('tea', 3)" in result.traceback
    assert "outcome.py" not in result.traceback


def test_an_error_whose_class_is_not_known_here_keeps_its_name(shared: Site):
    with pytest.raises(UnrebuiltError, match="hello") as failure:
        shared.send("raises_stranger").get(timeout=WAIT)
    assert type(failure.value).__name__ == "Stranger"


def test_an_error_that_cannot_be_written_is_told_all_the_same(shared: Site):
    result = shared.send("raises_unspeakable")
    wait_until(result.failed, lambda: result.state)
    assert type(result.result).__name__ == "Unspeakable"
    assert "Unspeakable" in result.traceback


def test_a_value_that_cannot_be_written_is_a_failure(shared: Site):
    with pytest.raises(EncodeError, match="lock"):
        shared.send("unwritable").get(timeout=WAIT)


def test_a_started_task_is_seen_as_started(shared: Site):
    gate = f"tracked-{time.monotonic()}"
    result = shared.send("tracked", gate)
    wait_until(lambda: result.state == states.STARTED, shared.told)
    started = result.info
    shared.open(gate)
    assert result.get(timeout=WAIT) == started["pid"] and started["hostname"] == "w1@test"


def test_a_state_of_the_tasks_own_is_seen(shared: Site):
    gate = f"progress-{time.monotonic()}"
    result = shared.send("progresses", gate)
    wait_until(lambda: result.state == "PROGRESS", shared.told)
    assert result.info == {"done": 3, "of": 10}
    shared.open(gate)
    assert result.get(timeout=WAIT) == "whole" and result.state == states.SUCCESS


def test_the_latest_progress_is_seen_while_the_run_goes_on(shared: Site):
    gate = f"told-{time.monotonic()}"
    result = shared.send("tells_progress", gate, 5000)
    wait_until(lambda: result.info == {"current": 5000, "total": 5000, "message": "step 5000"}, shared.told)
    assert result.state == "PROGRESS"
    shared.open(gate)
    assert result.get(timeout=WAIT) == "whole" and result.state == states.SUCCESS


def test_progress_is_stored_once_a_second_however_often_it_is_told(shared: Site):
    gate = f"often-{time.monotonic()}"
    shared.open(gate)
    seen = []
    result = shared.send("tells_progress", gate, 5000, 2.5)
    assert result.get(timeout=WAIT, on_message=lambda meta: seen.append(meta["result"])) == "whole"
    told = shared.wait_note(result, "told")["current"]
    assert told >= 5000
    assert seen[-1] == "whole" and 2 <= len(seen) - 1 <= 5, (told, seen)


def test_a_task_that_tells_its_progress_keeps_its_end(shared: Site):
    result = shared.app.AsyncResult(shared.send("tells_progress_quietly").id)
    assert result.get(timeout=WAIT) == "kept"


def test_a_result_can_be_forgotten(shared: Site):
    result = shared.send("add", 1, 2)
    assert result.get(timeout=WAIT) == 3
    result.forget()
    assert shared.app.AsyncResult(result.id).state == states.PENDING


def test_results_expire(site: Site):
    site.worker("-c", "1", result_expires=3.0)
    result = site.send("add", 1, 2)
    assert result.get(timeout=WAIT) == 3
    wait_until(lambda: site.app.AsyncResult(result.id).state == states.PENDING, site.told)


def test_extended_results_tell_how_they_came_about(site: Site):
    site.worker("-c", "1", result_extended=True)
    result = site.send("add", 1, y=2)
    assert result.get(timeout=WAIT) == 3
    assert (result.name, result.args, result.kwargs) == ("workload.add", [1], {"y": 2})
    assert (result.worker, result.queue, result.retries) == ("w1@test", "celery", 0)


def test_an_end_that_is_kept_elsewhere_is_not_followed_by_progress(site: Site):
    site.app.conf.result_backend = f"sqlite:///{site.folder}/results.sqlite"
    site.worker("-c", "2", result_backend=site.app.conf.result_backend)
    sent = [site.send("tells_progress", "open", 20) for _ in range(20)]
    site.open("open")
    assert [result.get(timeout=WAIT) for result in sent] == ["whole"] * 20
    site.wait_empty()
    assert {site.app.AsyncResult(result.id).state for result in sent} == {states.SUCCESS}


def test_results_can_be_kept_elsewhere(site: Site):
    site.app.conf.result_backend = f"sqlite:///{site.folder}/results.sqlite"
    site.worker("-c", "1", result_backend=site.app.conf.result_backend)
    assert site.send("add", 1, 2).get(timeout=WAIT) == 3
    with pytest.raises(OutOfStock):
        site.send("runs_out").get(timeout=WAIT)
    site.wait_empty()
