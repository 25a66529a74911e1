"""Asking workers how they are: `celeriac status`, `ping` and `inspect`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from harness import WAIT, Site, python_path, wait_until

from celeriac import wire


def status(site: Site, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celeriac", "-b", site.url, "status", *flags],
        env={**os.environ, "PYTHONPATH": python_path()}, cwd=site.folder, capture_output=True, text=True, check=False,
        timeout=2 * WAIT,
    )  # fmt: skip


def test_every_worker_says_how_it_is(site: Site):
    first = site.worker("-P", "threads", "-c", "3", "-Q", "celery,letters")
    site.worker("-c", "2", "-Q", "mail")
    result = site.send("holds", "gate")
    site.wait_note(result, "start")
    patient = ("--timeout", str(WAIT), "-d")
    done = status(site, *patient, "w1@test,w2@test")
    assert done.returncode == wire.EXIT_OK, done.stderr
    head, one, two = done.stdout.splitlines()
    assert head.split() == ["worker", "state", "pool", "size", "running", "done", "memory", "up", "queues"]
    assert one.split()[:6] == ["w1@test", "ready", "threads", "1x3", "1", "0"] and one.endswith(
        "celery,letters"
    )
    assert two.split()[:6] == ["w2@test", "ready", "prefork", "2x1", "0", "0"] and two.endswith("mail")
    (told,) = json.loads(status(site, "--json", *patient, "w1@test").stdout)
    assert (
        told["condition"]["pid"] == first.pid
        and told["condition"]["children"][0]["runs"][0]["id"] == result.id
    )
    inspect = site.app.control.inspect(timeout=WAIT, limit=2)
    assert inspect.ping() == {"w1@test": {"ok": "pong"}, "w2@test": {"ok": "pong"}}
    active = inspect.active()
    assert active is not None and active["w2@test"] == []
    assert [(run["id"], run["name"]) for run in active["w1@test"]] == [(result.id, "workload.holds")]
    site.open("gate")


def test_where_none_answers_the_exit_code_says_so(site: Site):
    done = status(site, "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (wire.EXIT_BROKER_UNAVAILABLE, "")
    assert "no worker answers" in done.stderr
    worker = site.worker("-c", "1", worker_enable_remote_control=False)
    assert status(site, "--timeout", "0.2").returncode == wire.EXIT_BROKER_UNAVAILABLE
    worker.stop()


def test_a_worker_that_stops_says_so(site: Site):
    worker = site.worker("-c", "1", worker_shutdown_timeout=WAIT)
    site.wait_note(site.send("holds", "gate"), "start")
    worker.send_signal(15)
    wait_until(lambda: "stopping" in status(site).stdout, worker.log)
    site.open("gate")
    assert worker.exit_code() == 0
