"""What workers say of themselves and of their tasks: `app.control.inspect()`, in Celery's words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from harness import WAIT, Site, python_path, wait_until

from celeriac import Celeriac, states, wire
from celeriac.brokers.abilities import Foretells
from celeriac.contrib.testing.worker import TestWorkController
from celeriac.control.inspecting import Inspect
from celeriac.wire import Question, WorkerOptions
from celeriac.worker import inspection

NAME = "w1@test"


def ask(site: Site) -> Inspect:
    """Questions to the one worker of a site."""
    return site.app.control.inspect(timeout=WAIT, limit=1)


def told(answers: dict[str, Any] | None) -> Any:
    """What the one worker has answered."""
    assert answers is not None and list(answers) == [NAME]
    return answers[NAME]


def whole(question: Callable[[], dict[str, Any] | None]) -> Any:
    """What the one worker has answered when the process that knows replied in time, as it does on a machine at rest."""
    answers: list[Any] = []

    def is_whole() -> bool:
        answers.append(told(question()))
        return "error" not in answers[-1]

    wait_until(is_whole, lambda: f"{answers}")
    return answers[-1]


def test_what_runs_is_told_as_celery_tells_it(site: Site):
    site.worker("-c", "2")
    result = site.call("holds", "gate", priority=3)
    site.wait_note(result, "start")
    (run,) = told(ask(site).active())
    start = run.pop("time_start")
    assert isinstance(start, float)
    assert run.pop("worker_pid") in site.workers[0].children()
    assert run == {
        "id": result.id, "name": "workload.holds", "type": "workload.holds", "args": ["gate"], "kwargs": {},
        "hostname": NAME, "acknowledged": False,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
    }  # fmt: skip
    known = told(ask(site).query_task(result.id, "9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11"))
    assert list(known) == [result.id] and known[result.id][0] == "active"
    assert told(ask(site).query_task(["9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11"])) == {}
    assert told(ask(site).reserved()) == []
    site.open("gate")
    assert result.get(timeout=WAIT)
    # The result is there as soon as the broker has the run's end; the child clears its slot after that.
    wait_until(lambda: told(ask(site).active()) == [], site.workers[0].log)


def test_the_application_is_told_of(sqlite_site: Site):
    sqlite_site.worker("-c", "1", worker_max_tasks_per_child=77)
    names = whole(ask(sqlite_site).registered)
    assert "workload.add" in names and not any(name.startswith("celeriac.") for name in names)
    assert "workload.add [name=workload.add max_retries=3]" in whole(
        lambda: ask(sqlite_site).registered_tasks("name", "max_retries", "nothing")
    )
    settings = whole(ask(sqlite_site).conf)
    assert settings["worker_max_tasks_per_child"] == 77 and "task_acks_late" not in settings
    assert whole(lambda: ask(sqlite_site).conf(with_defaults=True))["task_acks_late"] is True
    report = whole(ask(sqlite_site).report)["ok"]
    assert "software -> celeriac:" in report and "worker_max_tasks_per_child: 77" in report


def test_what_waits_in_a_process_is_reserved():
    app = Celeriac("reserving", broker="memory://reserving", set_as_current=False)
    first, second = (app.send_task("later", args=(n,), priority=2) for n in range(2))
    worker = TestWorkController(app, WorkerOptions(hostname=NAME), 1)
    parts = worker._parts  # pyright: ignore[reportPrivateUsage]
    parts.task_consumer.waiting.extend(parts.consumer.take(2, WAIT))

    def asked(*ids: str) -> Any:
        question = Question(1, "tasks", ids)
        return msgspec.msgpack.decode(inspection.of_child(question, parts.bench, parts.task_consumer.waiting))

    told = asked()
    assert told["active"] == [] and [held["id"] for held in told["reserved"]] == [first.id, second.id]
    assert [held["args"] for held in told["reserved"]] == [[0], [1]]
    assert told["reserved"][0]["delivery_info"]["priority"] == 2
    assert [held["id"] for held in asked(second.id, "another")["reserved"]] == [second.id]
    worker.start()
    worker.stop(WAIT)


def test_numbers_are_told(site: Site):
    worker = site.worker("-c", "2", "-Q", "celery,letters", worker_max_tasks_per_child=77, task_time_limit=50)
    for n in range(3):
        assert site.send("add", n).get(timeout=WAIT) == n + 1
    # A run is counted when its end has been sent.
    wait_until(lambda: told(ask(site).stats())["total"] == {"workload.add": 3}, worker.log)
    stats = told(ask(site).stats())
    assert stats["pid"] == worker.pid
    assert stats["pool"]["max-concurrency"] == 2 and stats["pool"]["processes"] == worker.children()
    assert (stats["pool"]["max-tasks-per-child"], stats["pool"]["timeouts"]) == (77, [None, 50])
    assert stats["broker"]["transport"] == site.app.broker.place.partition(" ")[0]
    assert stats["rusage"]["maxrss"] > 1000 and stats["prefetch_count"] >= 2
    queues = told(ask(site).active_queues())
    assert [(queue["name"], queue["exchange"]["name"]) for queue in queues] == [
        ("celery", "celery"), ("letters", "letters"),
    ]  # fmt: skip


def test_the_revoked_are_told(site: Site):
    site.worker("-c", "1")
    unknown = "9c2ee0e5-1eb8-4b7c-8f7c-5a2b3a0c6a11"
    site.app.control.revoke(unknown)
    assert told(ask(site).revoked()) == [unknown]
    late = site.call("add", 1, countdown=3600.0)
    assert site.app.control.revoke(late.id, reply=True, timeout=WAIT, limit=1) == [
        {NAME: {"ok": "1 tasks flagged as revoked"}}
    ]
    assert told(ask(site).revoked()) == [unknown, late.id]


def test_what_waits_for_its_time_is_told_once(site: Site):
    site.worker("-c", "1")
    site.worker("-c", "1", "-Q", "letters,celery")
    late = site.call("add", 3, countdown=3600.0)
    soon = site.call("add", 1, kwargs={"y": 2}, countdown=1800.0, queue="letters")
    before = time.time() + 1800.0
    answers = site.app.control.inspect(timeout=WAIT, limit=2).scheduled()
    assert answers is not None
    if not isinstance(site.broker, Foretells):
        assert answers == {NAME: [], "w2@test": []}
        return
    (first,), (second,) = answers[NAME], answers["w2@test"]
    assert (first["request"]["id"], first["request"]["args"]) == (late.id, [3])
    assert (second["request"]["id"], second["request"]["kwargs"]) == (soon.id, {"y": 2})
    assert second["request"]["delivery_info"]["routing_key"] == "letters"
    assert abs(datetime.fromisoformat(second["eta"]).timestamp() - before) < WAIT


def test_a_process_that_does_not_answer_holds_nobody_up(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "2")
    first, second = sqlite_site.send("holds", "gate"), sqlite_site.send("holds", "gate")
    pid = sqlite_site.wait_note(first, "start")["pid"]
    sqlite_site.wait_note(second, "start")
    os.kill(pid, signal.SIGSTOP)
    try:
        runs = {run["id"]: run for run in told(ask(sqlite_site).active())}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (runs[first.id]["args"], runs[first.id]["worker_pid"]) == (None, pid)
    assert runs[second.id]["args"] == ["gate"]
    os.kill(worker.template(), signal.SIGSTOP)
    try:
        assert "error" in told(ask(sqlite_site).registered())
    finally:
        os.kill(worker.template(), signal.SIGCONT)
    sqlite_site.open("gate")


def test_long_and_strange_arguments_are_told_in_short(sqlite_site: Site):
    sqlite_site.worker("-c", "1")
    long = sqlite_site.call("about_arguments", "x" * 100_000, kwargs={"gate": "other", "more": {1: 2}})
    sqlite_site.wait_note(long, "start")
    (run,) = told(ask(sqlite_site).active())
    assert isinstance(run["args"], str) and run["args"].startswith("['xxx") and len(run["args"]) < 300
    assert run["kwargs"] == {"gate": "other", "more": {1: 2}}
    sqlite_site.open("other")


def command(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celeriac", "-b", site.url, *words], env={**os.environ, "PYTHONPATH": python_path()},
        cwd=site.folder, capture_output=True, text=True, check=False, timeout=WAIT,
    )  # fmt: skip


def test_the_commands_ask_and_tell(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "1")
    result = sqlite_site.send("holds", "gate")
    sqlite_site.wait_note(result, "start")
    long = ("-t", str(WAIT), "-d", NAME)
    asked = command(sqlite_site, "inspect", "active", "--json", *long)
    assert [run["id"] for run in json.loads(asked.stdout)[NAME]] == [result.id], asked.stderr
    assert command(sqlite_site, "inspect", "reserved", *long).stdout.splitlines() == [
        f"->  {NAME}: OK", "    - empty -", "", "1 worker answered.",
    ]  # fmt: skip
    assert (
        f"{result.id}: ['active', " in command(sqlite_site, "inspect", "query_task", result.id, *long).stdout
    )
    assert "    pong" in command(sqlite_site, "inspect", "ping", *long).stdout
    for words, text in (
        (("inspect", "clock"), "logical clocks"), (("inspect", "activ"), "Did you mean 'active'"),
        (("inspect", "ping", "all"), "no arguments"), (("inspect", "timeout"), "no question"),
        (("control", "pool_grow"), "another worker"), (("control", "revoke"), "do not fit"),
        (("control", "purge"), "no action"),
    ):  # fmt: skip
        refused = command(sqlite_site, *words)
        assert refused.returncode == wire.EXIT_USAGE and text in refused.stderr, refused.stderr
    ended = command(sqlite_site, "control", "terminate", "SIGKILL", result.id, *long)
    assert "revoked" in ended.stdout
    wait_until(lambda: result.state == states.REVOKED, worker.log)
    assert command(sqlite_site, "control", "shutdown", *long).returncode == wire.EXIT_OK
    assert worker.exit_code() == 0
    assert command(sqlite_site, "control", "shutdown").returncode == wire.EXIT_BROKER_UNAVAILABLE


def test_workers_are_stopped_from_afar(sqlite_site: Site):
    first, second = sqlite_site.worker("-c", "1"), sqlite_site.worker("-c", "1")
    answers = sqlite_site.app.control.shutdown(destination=["w2@test"], reply=True, timeout=WAIT)
    assert answers == [{"w2@test": {"ok": "shutting down"}}]
    assert second.exit_code() == 0
    wait_until(lambda: "app.control.shutdown" in second.log(), second.log)
    assert told(ask(sqlite_site).ping()) == {"ok": "pong"}
    sqlite_site.app.control.shutdown()
    assert first.exit_code() == 0
