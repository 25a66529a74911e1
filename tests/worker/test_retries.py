"""How a run can end but by returning or failing: retries, refusals, and what a task may raise on purpose."""

from __future__ import annotations

import itertools
import time

import pytest
from harness import WAIT, Site, wait_until
from workload import OutOfStock

from celeriac import states
from celeriac.exceptions import MaxRetriesExceededError, UnrebuiltError


def gaps(site: Site, result) -> list[float]:
    """Seconds between the runs of a call."""
    return [b["at"] - a["at"] for a, b in itertools.pairwise(site.notes(result, "run"))]


def test_a_retry_runs_again_under_the_same_id(shared: Site):
    result = shared.send("succeeds_at", 3)
    assert result.get(timeout=WAIT)["retries"] == 3
    assert [note["retries"] for note in shared.notes(result)] == [0, 1, 2, 3]


def test_a_retry_keeps_the_options_of_the_call(shared: Site):
    result = shared.call("succeeds_at", 1, headers={"color": "red"}, queue="letters")
    assert result.get(timeout=WAIT)["headers"] == {"color": "red"}


def test_a_retry_waits_for_its_countdown(shared: Site):
    result = shared.send("succeeds_at", 1, 0.4)
    assert result.get(timeout=WAIT)["retries"] == 1
    assert 0.35 < gaps(shared, result)[0] < 6


def test_a_retry_may_change_its_arguments(shared: Site):
    result = shared.send("counts_down", 3, "gate")
    assert result.get(timeout=WAIT) == "lift-off"
    assert [note["number"] for note in shared.notes(result)] == [3, 2, 1, 0]


def test_a_waiting_retry_is_seen_as_such(shared: Site):
    gate = f"retry-{time.monotonic()}"
    result = shared.send("waits_for_retry", gate)
    wait_until(lambda: result.state == states.RETRY, shared.told)
    assert isinstance(result.info, OutOfStock)
    shared.open(gate)
    assert result.get(timeout=WAIT) == "restocked"


def test_after_the_last_retry_the_cause_is_raised(shared: Site):
    result = shared.send("never_succeeds", with_cause=True)
    with pytest.raises(OutOfStock):
        result.get(timeout=WAIT)
    assert len(shared.notes(result)) == 3


def test_after_the_last_retry_without_a_cause_there_is_an_error_of_its_own(shared: Site):
    result = shared.send("never_succeeds")
    with pytest.raises(MaxRetriesExceededError, match=r"workload\.never_succeeds"):
        result.get(timeout=WAIT)
    assert len(shared.notes(result)) == 3


def test_listed_errors_are_retried(shared: Site):
    result = shared.send("autoretries")
    with pytest.raises(OutOfStock) as failure:
        result.get(timeout=WAIT)
    assert failure.value.wanted == 2
    assert [note["retries"] for note in shared.notes(result)] == [0, 1, 2]


def test_errors_listed_as_hopeless_are_not_retried(shared: Site):
    result = shared.send("gives_up_on_key_errors")
    with pytest.raises(KeyError):
        result.get(timeout=WAIT)
    assert len(shared.notes(result)) == 1


def test_backoff_doubles_the_delay(shared: Site):
    result = shared.send("backs_off")
    assert result.get(timeout=WAIT) == 2
    first, second = gaps(shared, result)
    assert 0.18 < first < 6 and 0.38 < second < 6


def test_an_expected_error_is_a_failure_without_noise(shared: Site):
    result = shared.send("throws")
    with pytest.raises(KeyError):
        result.get(timeout=WAIT)
    shared.workers[0].wait_log(f"workload.throws[{result.id}] raised expected")


def test_an_ignored_run_leaves_no_result(shared: Site):
    result = shared.send("ignores")
    shared.wait_note(result, "ignored")
    shared.wait_empty()
    assert result.state == states.PENDING and len(shared.notes(result)) == 1


def test_a_refused_message_is_a_dead_letter_with_its_reason(shared: Site):
    result = shared.call("rejects", queue="letters")
    letter = next(one for one in shared.wait_dead(queue="letters") if one.data[1:17] == result.key)
    assert (letter.reason, letter.detail) == ("rejected", "not today")
    assert shared.broker.drop("letters", [letter.key]) == 1


def test_a_refused_message_may_go_back_to_its_queue(shared: Site):
    result = shared.send("rejects", requeue=True)
    assert result.get(timeout=WAIT) == "accepted"
    assert len(shared.notes(result, "rejected")) == 2


def test_leaving_the_interpreter_fails_the_task_only(shared: Site):
    children = shared.workers[0].children()
    result = shared.send("exits", 3)
    with pytest.raises(UnrebuiltError) as failure:  # and not the caller's own exit
        result.get(timeout=WAIT)
    assert type(failure.value).__name__ == "SystemExit" and "sys.exit(code)" in result.traceback
    assert shared.workers[0].children() == children


def test_an_interrupt_raised_by_a_task_fails_the_task_only(shared: Site):
    children = shared.workers[0].children()
    result = shared.send("interrupts")
    wait_until(result.failed, lambda: result.state)
    assert shared.workers[0].children() == children
