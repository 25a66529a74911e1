"""What a call asks for is what its run gets: options, serializers, callbacks, hooks, coroutines, workflows."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from harness import WAIT, Site, wait_until

from celeriac import chain, group, states
from celeriac.exceptions import TaskRevokedError
from celeriac.message import new_key


def test_delay_returns_what_the_task_returns(shared: Site):
    assert shared.send("add", 2, y=40).get(timeout=WAIT) == 42


def test_defaults_of_the_function_hold(shared: Site):
    assert shared.send("add", 2).get(timeout=WAIT) == 3


def test_values_of_every_plain_type_travel_both_ways(shared: Site):
    value = [None, True, -1, 2**70, 1.5, "text ☃", b"bytes", [1, [2]], {"a": {"b": 1}}, datetime.now(UTC)]
    assert shared.send("give", value).get(timeout=WAIT) == value


def test_a_countdown_is_waited_for_in_the_broker(shared: Site):
    sent_at = time.monotonic()
    result = shared.call("add", 1, 2, countdown=0.5)
    started = shared.wait_note(result, "add")["at"]
    assert 0.45 <= started - sent_at < 0.5 + 1.0 + 5.0


def test_an_eta_is_not_run_before_its_time(shared: Site):
    eta = datetime.now(UTC) + timedelta(seconds=0.4)
    result = shared.call("add", 1, 2, eta=eta)
    assert result.get(timeout=WAIT) == 3
    assert datetime.now(UTC) >= eta


def test_an_eta_in_the_past_runs_at_once(shared: Site):
    assert shared.call("add", 1, 2, eta=datetime.now(UTC) - timedelta(days=1)).get(timeout=WAIT) == 3


def test_what_has_expired_is_revoked_and_not_run(shared: Site):
    result = shared.call("add", 1, 2, expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=WAIT)
    assert result.state == states.REVOKED
    assert not shared.notes(result)


def test_what_expires_while_it_waits_for_its_countdown_is_revoked(shared: Site):
    result = shared.call("add", 1, 2, countdown=0.3, expires=0.1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT)


def test_what_has_not_expired_yet_runs(shared: Site):
    assert shared.call("add", 1, 2, expires=600).get(timeout=WAIT) == 3


def test_a_queue_is_as_the_caller_says(shared: Site):
    assert shared.call("about", queue="letters").get(timeout=WAIT)["queue"] == "letters"


def test_a_queue_that_nobody_takes_from_keeps_its_messages(shared: Site):
    result = shared.call("add", 1, 2, queue="nobody")
    assert shared.send("add", 3, 4).get(timeout=WAIT) == 7
    assert shared.stats("nobody").ready == 1 and result.state == states.PENDING
    shared.broker.purge("nobody")


@pytest.mark.parametrize("task_id", ["order-4711", "7c8f6f2e-7a5c-4f1a-9a0e-1b2c3d4e5f60"])
def test_a_task_id_is_as_the_caller_says(shared: Site, task_id: str):
    task_id = task_id if "-" not in task_id[5:8] else f"{task_id}-{shared.url[-12:]}"
    result = shared.call("about", task_id=task_id)
    assert result.id == task_id and result.get(timeout=WAIT)["id"] == task_id


def test_headers_are_seen_in_the_request(shared: Site):
    about = shared.call("about", headers={"color": "red", "trace": [1, 2]}).get(timeout=WAIT)
    assert about["headers"] == {"color": "red", "trace": [1, 2]} and about["color"] == "red"


def test_the_request_tells_who_runs_it(shared: Site):
    about = shared.call("about", priority=3, shadow="alias", time_limit=50, soft_time_limit=40).get(
        timeout=WAIT
    )
    assert about["hostname"] == "w1@test" and about["pid"] in shared.workers[0].children()
    assert (about["priority"], about["shadow"], about["timelimit"]) == (3, "alias", [50, 40])
    assert (about["redelivered"], about["retries"], about["parent"]) == (False, 0, None)


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack"])
def test_every_accepted_serializer_carries_arguments(shared: Site, serializer: str):
    result = shared.call("give", {"a": [1, "zwei ☃"]}, serializer=serializer)
    assert result.get(timeout=WAIT) == {"a": [1, "zwei ☃"]}


def test_pickle_carries_what_others_cannot(shared: Site):
    assert shared.call("add", 1j, 2, serializer="pickle").id


@pytest.mark.parametrize("compression", ["zlib", "bzip2", "lzma"])
def test_compressed_arguments_arrive_whole(shared: Site, compression: str):
    text = "again and again " * 5000
    result = shared.call("give", text, compression=compression, ignore_result=False)
    assert result.get(timeout=WAIT) == text


def test_compression_and_a_serializer_go_together(shared: Site):
    result = shared.call("give", ["x" * 5000], compression="zlib", serializer="json")
    assert result.get(timeout=WAIT) == ["x" * 5000]


def test_a_link_gets_the_result(shared: Site):
    after = shared.task("add").s(10).set(task_id=None)
    result = shared.call("add", 1, 2, link=after)
    shared.wait_note(result, "add")
    wait_until(lambda: result.children, lambda: f"{result.state}")
    assert result.children[0].get(timeout=WAIT) == 13


def test_every_link_of_several_is_called(shared: Site):
    ids = [f"link-{shared.url[-8:]}-{n}" for n in (1, 2)]
    links = [shared.task("add").s(n).set(task_id=task_id) for n, task_id in enumerate(ids)]
    shared.call("add", 1, 2, link=links)
    assert [shared.app.AsyncResult(task_id).get(timeout=WAIT) for task_id in ids] == [3, 4]


def test_a_link_error_gets_the_id_of_what_failed(shared: Site):
    errback = shared.task("asks_by_link_error").s()
    result = shared.call("fails", "on purpose", link_error=errback)
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=WAIT)
    wait_until(lambda: any(n["failed"] == result.id for n in shared.notes(what="link_error")), shared.told)


def test_a_link_is_not_called_after_a_failure(shared: Site):
    task_id = f"never-{shared.url[-8:]}"
    result = shared.call("fails", "x", link=shared.task("add").s(1).set(task_id=task_id))
    with pytest.raises(ValueError, match="x"):
        result.get(timeout=WAIT)
    shared.wait_empty()
    assert shared.app.AsyncResult(task_id).state == states.PENDING


def test_a_task_that_a_task_sends_knows_where_it_comes_from(shared: Site):
    parent = shared.send("sends")
    (child,) = parent.get(timeout=WAIT)
    about = shared.app.AsyncResult(child).get(timeout=WAIT)
    assert (about["parent"], about["root"]) == (parent.id, parent.id)
    assert [one.id for one in parent.children] == [child]


def test_send_task_needs_a_name_only(shared: Site):
    sender = type(shared.app)("another", broker=shared.url, task_ignore_result=False)
    with sender:
        assert sender.send_task("workload.add", (1,), {"y": 2}).get(timeout=WAIT) == 3


def test_a_group_gives_its_results_in_the_order_of_its_calls(shared: Site):
    add = shared.task("add")
    results = group(add.s(n, n) for n in range(20)).apply_async()
    assert results.get(timeout=WAIT) == [2 * n for n in range(20)]
    assert results.successful() and results.completed_count() == 20


def test_a_group_raises_what_a_member_raised(shared: Site):
    results = group(shared.task("add").s(1, 1), shared.task("fails").s("one of us")).apply_async()
    with pytest.raises(ValueError, match="one of us"):
        results.get(timeout=WAIT)


def test_a_chain_hands_each_result_to_the_next_step(shared: Site):
    add = shared.task("add")
    assert chain(add.s(1, 2), add.s(10), add.s(100)).apply_async().get(timeout=WAIT) == 113
    assert (add.s(1, 2) | add.si(5, 6)).apply_async().get(timeout=WAIT) == 11


def test_a_chain_passes_values_where_results_are_not_kept(shared: Site):
    give, plain = shared.task("give"), shared.task("plain")
    result = chain(plain.s("kept nowhere"), give.s()).apply_async()
    assert result.get(timeout=WAIT) == "kept nowhere"


def test_a_chain_ends_where_a_step_fails_and_whoever_waits_is_told(shared: Site):
    add, runs_out = shared.task("add"), shared.task("fails")
    result = chain(add.s(1, 2), runs_out.si("in the middle"), add.s(1)).apply_async()
    with pytest.raises(ValueError, match="in the middle"):
        result.get(timeout=WAIT)
    assert not shared.notes(result)


def test_hooks_of_a_task_class_are_called_in_order(shared: Site):
    result = shared.app.tasks["workload.Multiply"].delay(6, 7)
    assert result.get(timeout=WAIT) == 42
    notes = shared.notes(result)
    assert [note["what"] for note in notes] == ["before_start", "on_success", "after_return"]
    assert notes[0]["args"] == [6, 7] and notes[1]["retval"] == 42 and notes[2]["status"] == "SUCCESS"


def test_hooks_are_told_of_a_failure(shared: Site):
    result = shared.send("hooked", "fail")
    with pytest.raises(Exception, match="tea"):
        result.get(timeout=WAIT)
    notes = shared.notes(result)
    assert [note["what"] for note in notes] == ["before_start", "run", "on_failure", "after_return"]
    assert notes[2]["error"] == "OutOfStock" and notes[2]["told"].startswith("Traceback")
    assert notes[3]["status"] == "FAILURE"


def test_hooks_are_told_of_a_retry(shared: Site):
    result = shared.send("hooked", "retry")
    assert result.get(timeout=WAIT) == "done"
    assert [note["what"] for note in shared.notes(result)] == [
        "before_start", "run", "on_retry", "after_return", "before_start", "run", "on_success", "after_return",
    ]  # fmt: skip


def test_a_hook_that_fails_changes_nothing(shared: Site):
    assert shared.send("has_broken_hook").get(timeout=WAIT) == "done"
    shared.workers[0].wait_log("a broken hook")


def test_a_coroutine_is_a_task(shared: Site):
    result = shared.send("sums_later", 1, 2)
    assert result.get(timeout=WAIT) == 3
    assert shared.notes(result, "coroutine")


def test_a_coroutine_that_raises_fails(shared: Site):
    with pytest.raises(Exception, match="tea") as failure:
        shared.send("fails_later").get(timeout=WAIT)
    assert type(failure.value).__name__ == "OutOfStock"


def test_many_tasks_sent_at_once_all_run_once(shared: Site):
    add = shared.task("plain")
    group(add.s(n) for n in range(500)).apply_async()
    shared.wait_empty()
    values = [note["value"] for note in shared.notes(what="plain") if isinstance(note["value"], int)]
    assert sorted(values) == list(range(500))


def test_a_higher_priority_runs_first_and_equals_run_in_order(site: Site):
    ids = [new_key().hex() for _ in range(6)]
    for task_id, priority in zip(ids, [0, 9, 3, 0, 9, 3], strict=True):
        site.call("plain", 0, priority=priority, task_id=task_id)
    site.worker("-c", "1")
    site.wait_empty()
    ran = [note["id"] for note in site.notes(what="plain")]
    assert ran == [ids[n] for n in (1, 4, 2, 5, 0, 3)]
