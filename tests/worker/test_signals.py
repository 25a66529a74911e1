"""Signals of workers that are processes: which are sent, where, in which order, and what receivers can do."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from harness import WAIT, Site, Worker, wait_until


def told(site: Site, *names: str, pid: int | None = None) -> list[dict[str, Any]]:
    """What receivers have written down, in that order: of these signals, of one process, or all."""
    path = site.folder / "told"
    # The last line may be read while it is written, where it passes the end of a page.
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    lines = [json.loads(line) for line in whole.splitlines()]
    return [
        line for line in lines
        if (not names or line["signal"] in names) and (pid is None or line["pid"] == pid)
    ]  # fmt: skip


def wait_told(site: Site, name: str, count: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: len(told(site, name)) >= count, lambda: f"{told(site)}\n{site.told()}")
    return told(site, name)


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["signal"] for line in lines]


def start(site: Site, *flags: str, wish: str = "", **environ: str) -> Worker:
    # The receivers are in a module without tasks, which no message would have imported.
    return site.worker("-I", "told", *flags, environ={"TOLD": wish, **environ}, worker_imports="eager")


def test_the_life_of_a_worker_is_told_in_the_template_and_in_each_child(site: Site):
    worker = start(site, "-c", "2")
    template, children = worker.template(), worker.children()
    wait_told(site, "worker_ready")
    site.wait_empty()
    assert worker.stop() == 0
    lives = [name for name in names(told(site, pid=template)) if name.startswith(("worker", "celeryd"))]
    assert lives == [
        "celeryd_init", "celeryd_after_setup", "worker_init", "worker_before_create_process",
        "worker_before_create_process", "worker_ready", "worker_shutting_down", "worker_shutdown",
    ]  # fmt: skip
    for child in children:
        assert names(told(site, "worker_process_init", "worker_process_shutdown", pid=child)) == [
            "worker_process_init", "worker_process_shutdown",
        ]  # fmt: skip
    assert {line["sender"] for line in told(site, "worker_init", "worker_ready", "worker_shutdown")} == {
        "w1@test"
    }
    (stopping,) = told(site, "worker_shutting_down")
    assert stopping["named"] == {"sig": "SIGTERM", "how": "Warm", "exitcode": "0"}


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "asyncio"])
def test_a_run_is_told_from_its_arrival_to_its_end(sqlite_site: Site, pool: str):
    start(sqlite_site, "-P", pool, "-c", "1")
    wait_told(sqlite_site, "task_postrun")
    result = sqlite_site.send("add", 1, 2)
    assert result.get(timeout=WAIT) == 3
    wait_told(sqlite_site, "task_postrun", 2)
    own = [line for line in told(sqlite_site) if line["named"].get("task_id") == result.id]
    assert names(own) == ["task_prerun", "task_postrun"]
    assert {line["task"] for line in own} == {"workload.add"}
    assert own[0]["sender"] == "<@task: workload.add>"
    assert own[1]["named"] | {"retval": "3", "state": "SUCCESS", "args": "[1, 2]"} == own[1]["named"]
    assert result.id in told(sqlite_site, "task_received")[-1]["named"]["request"]
    (success,) = [line for line in told(sqlite_site, "task_success") if line["named"]["result"] == "3"]
    assert success["pid"] == own[0]["pid"] and float(success["named"]["runtime"]) < WAIT


def test_failures_retries_and_revocations_are_told(sqlite_site: Site):
    start(sqlite_site, "-c", "1")
    failed = sqlite_site.send("fails", "out of tea")
    with pytest.raises(Exception, match="out of tea"):
        failed.get(timeout=WAIT)
    (failure,) = wait_told(sqlite_site, "task_failure")
    assert failure["named"]["task_id"] == failed.id and "out of tea" in failure["named"]["exception"]
    assert "Traceback" in failure["named"]["einfo"]
    expired = sqlite_site.call("add", 1, 1, expires=-1)
    (revoked,) = wait_told(sqlite_site, "task_revoked")
    assert expired.id in revoked["named"]["request"] and revoked["named"]["expired"] == "True"
    assert [line for line in told(sqlite_site) if line["named"].get("task_id") == expired.id] == []


def test_a_retry_is_told_with_its_reason(sqlite_site: Site):
    start(sqlite_site, "-c", "1")
    result = sqlite_site.send("succeeds_at", 1)
    result.get(timeout=WAIT)
    (retry,) = wait_told(sqlite_site, "task_retry")
    assert result.id in retry["named"]["request"] and "Retry" in retry["named"]["reason"]
    wait_until(
        lambda: (
            len([line for line in told(sqlite_site, "task_postrun") if line["named"]["task_id"] == result.id])
            == 2
        )
    )
    states = [
        line["named"]["state"]
        for line in told(sqlite_site, "task_postrun")
        if line["named"]["task_id"] == result.id
    ]
    assert states == ["RETRY", "SUCCESS"]


def test_a_worker_that_is_ready_may_send_its_first_task(site: Site):
    start(site, "-c", "1")
    (success,) = wait_told(site, "task_success")
    assert success["named"]["result"] == "42"


def test_settings_may_follow_the_worker(sqlite_site: Site):
    worker = start(sqlite_site, "-c", "1", TOLD_MAX_TASKS="2")
    for number in range(6):
        assert sqlite_site.send("add", number, 0).get(timeout=WAIT) == number
    worker.wait_log("worker_max_tasks_per_child")
    wait_told(sqlite_site, "worker_process_init", 3)


def test_a_header_that_a_receiver_adds_travels_with_all_that_follows(site: Site):
    start(site, "-c", "1", wish="header")
    wait_told(site, "worker_ready")
    knows = site.task("about")
    chained = (knows.si() | knows.si()).delay()
    assert chained.get(timeout=WAIT)["headers"] == {"from": "workload.about"}
    assert chained.parent.get(timeout=WAIT)["headers"] is None  # sent from here, where nobody adds one
    again = site.send("succeeds_at", 1)
    assert again.get(timeout=WAIT)["headers"] == {"from": "workload.succeeds_at"}


def test_receivers_that_raise_hurt_nobody(sqlite_site: Site):
    worker = start(sqlite_site, "-c", "1", wish="broken")
    assert sqlite_site.send("add", 1, 2).get(timeout=WAIT) == 3
    worker.wait_log("Signal handler")
    assert worker.stop() == 0
    assert "a receiver of the test's" in worker.log()
    assert names(told(sqlite_site, "worker_shutdown")) == ["worker_shutdown"]


def test_an_application_may_set_up_its_logs_itself(sqlite_site: Site):
    worker = start(sqlite_site, "-c", "1", wish="logging")
    result = sqlite_site.send("add", 1, 2)
    assert result.get(timeout=WAIT) == 3
    worker.wait_log(f"OWN Task workload.add[{result.id}] received")
    assert f"ForkPoolWorker-1] Task workload.add[{result.id}]" not in worker.log()
    assert told(sqlite_site, "after_setup_logger") == []


def test_loggers_may_be_changed_after_their_setup(sqlite_site: Site):
    worker = start(sqlite_site, "-c", "1")
    child = worker.children()[0]
    assert names(told(sqlite_site, pid=child))[:3] == [
        "after_setup_logger", "after_setup_task_logger", "worker_process_init",
    ]  # fmt: skip


def test_a_worker_that_loads_its_application_anew_begins_a_new_life(sqlite_site: Site):
    worker = start(sqlite_site, "-c", "1")
    wait_told(sqlite_site, "worker_ready")
    worker.send_signal(signal.SIGHUP)
    wait_told(sqlite_site, "worker_ready", 2)
    assert len({line["pid"] for line in told(sqlite_site, "worker_init", "worker_ready")}) == 2
    # The old application goes when its children have gone.
    wait_told(sqlite_site, "worker_shutdown")
    assert worker.stop() == 0
    ended = [line["pid"] for line in told(sqlite_site, "worker_shutdown")]
    assert ended == [line["pid"] for line in told(sqlite_site, "worker_ready")]


def test_what_a_run_sends_with_its_end_is_told_before_and_behind(site: Site):
    worker = start(site, "-c", "1")
    wait_told(site, "task_postrun")
    (child,) = worker.children()
    add = site.task("add")
    result = (add.s(1, 2) | add.s(10) | add.s(100)).apply_async()
    assert result.get(timeout=WAIT) == 113
    later = [result.id, result.parent.id]
    wait_until(lambda: len(told(site, "after_task_publish", pid=child)) == 2, site.told)
    published = told(site, "before_task_publish", "after_task_publish", pid=child)
    assert names(published) == ["before_task_publish", "after_task_publish"] * 2
    for line, task_id in zip(published, [later[1]] * 2 + [later[0]] * 2, strict=True):
        assert line["sender"] == "workload.add" and task_id in line["named"]["headers"]
