"""P8: a stop takes nothing more, gives back at once, lets runs finish, and loses and repeats nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import WAIT, python_path, wait_until

from celeriac import group
from tests.guarantees.ground import SLACK, Ground, elapsed


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "asyncio"])
def test_p08_a_stop_gives_back_within_a_second_and_finishes_what_runs(ground: Ground, pool: str):
    worker = ground.worker("-P", pool, "-c", "1", "-l", "debug", worker_prefetch_multiplier=5)
    running, *waiting = [ground.send("holds", "gate") for _ in range(4)]
    ground.wait_note(running, "start")
    asked_at = time.monotonic()
    worker.ask_to_stop()
    wait_until(lambda: (ground.stats().ready, ground.stats().running) == (3, 1), ground.told)
    assert elapsed(asked_at) < 1.0 + SLACK
    late = ground.send("plain", 1)
    ground.open("gate")
    assert worker.exit_code() == 0
    assert running.successful() and ground.runs(running) == 1
    assert not any(ground.notes(result) for result in [*waiting, late])
    stats = ground.stats()
    assert (stats.ready, stats.running, stats.dead) == (4, 0, 0)


def test_p08_stops_under_load_lose_nothing_and_repeat_nothing(ground: Ground):
    sent = group(ground.task("plain").s(n) for n in range(1500)).apply_async()
    for _ in range(3):
        seen = len(ground.notes())
        worker = ground.worker("-c", "2")
        wait_until(lambda seen=seen: len(ground.notes()) > seen + 20, ground.told)
        assert worker.stop() == 0
        if ground.is_empty():
            break
    ground.worker("-c", "2")
    ground.wait_empty()
    assert sorted(note["id"] for note in ground.notes()) == sorted(result.id for result in sent)


def test_p08_what_outlasts_the_time_to_stop_goes_back_uncounted(ground: Ground):
    worker = ground.worker("-c", "1", worker_shutdown_timeout=0.5)
    result = ground.send("holds", "gate")
    ground.wait_note(result, "start")
    asked_at = time.monotonic()
    assert worker.stop() == 0
    assert elapsed(asked_at) < 0.5 + 1.0 + SLACK
    ground.worker("-c", "1")
    again = ground.wait_note(result, "start", 2)
    assert again["crashes"] == 0
    ground.open("gate")
    result.get(timeout=WAIT)


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode != 0,
    reason="only the superuser may make a process 1",
)
def test_p08_it_stops_in_order_as_process_1(ground: Ground):
    """As in a container: no signal has a default action there, and orphans become its children."""
    log = ground.folder / "process-1.log"
    environ = {
        **os.environ, "PYTHONPATH": python_path(Path(__file__).parent), "WORKLOAD_FOLDER": str(ground.folder),
        "WORKLOAD_BROKER": ground.url, "WORKLOAD_SETTINGS": json.dumps(ground.settings),
    }  # fmt: skip
    with log.open("wb") as out:
        outer = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "celeriac",
             "-A", "workload", "worker", "-l", "INFO", "-c", "1", "-n", "one@test"],
            env=environ, cwd=ground.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        result = ground.send("holds", "gate")
        ground.wait_note(result, "start")
        (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        (numbers,) = re.findall(r"NSpid:(.*)", Path(f"/proc/{inner}/status").read_text())
        assert numbers.split()[-1] == "1"
        os.kill(int(inner), signal.SIGTERM)
        wait_until(lambda: "stopping" in log.read_text(), log.read_text)
        ground.open("gate")
        assert outer.wait(WAIT) == 0
        assert result.successful() and ground.is_empty()
    finally:
        outer.kill()
        outer.wait()
