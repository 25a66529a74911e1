"""P1: when `delay()` returns, the message is stored; when it cannot be stored, `delay()` raises in time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import WAIT, python_path
from workload import make_app

from celeriac.exceptions import BrokerUnavailable
from tests.guarantees.ground import SLACK, Ground, Server, elapsed
from tests.servers import PrivateRedis

SENDER = """
import sys
from workload import make_app
app = make_app(sys.argv[1])
while True:
    print(app.tasks["workload.plain"].delay(1).id, flush=True)
"""


def test_p01_what_delay_returned_for_outlives_the_end_of_its_sender(ground: Ground):
    with subprocess.Popen(
        [sys.executable, "-c", SENDER, ground.url], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    ) as sender:  # fmt: skip
        assert sender.stdout is not None
        told = [next(sender.stdout) for _ in range(200)]
        sender.kill()
        told += list(sender.stdout)
    ground.worker("-c", "1")
    ground.wait_empty()
    ran = [note["id"] for note in ground.notes(what="plain")]
    assert {line.strip() for line in told if line.endswith("\n")} <= set(ran)
    assert len(set(ran)) == len(ran)


def test_p01_a_message_outlives_a_power_cut_of_broker_and_worker(
    private_ground: Ground, private_server: Server
):
    worker = private_ground.worker("-c", "1", worker_lease=1.0)
    running = private_ground.send("holds", "gate")
    private_ground.wait_note(running, "start")
    ready = [private_ground.send("plain", n) for n in range(50)]
    delayed = private_ground.call("plain", 50, countdown=0.5)
    private_server.kill()
    worker.kill()
    private_server.start()
    private_ground.open("gate")
    private_ground.worker("-c", "1", worker_lease=1.0)
    running.get(timeout=WAIT)
    private_ground.wait_empty()
    ran = [note["id"] for note in private_ground.notes(what="plain")]
    assert sorted(ran) == sorted(result.id for result in (*ready, delayed))


@pytest.mark.parametrize("timeout", [0.1, 0.5])
def test_p01_a_server_that_never_answers_fails_the_twentieth_send_as_the_first(timeout: float):
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        with make_app(url, broker_publish_timeout=timeout) as app:
            for _ in range(20 if timeout < 0.5 else 2):
                started = time.monotonic()
                with pytest.raises(BrokerUnavailable):
                    app.tasks["workload.add"].delay(1, 2)
                assert elapsed(started) < timeout + SLACK


def test_p01_a_result_store_that_is_away_fails_no_send(private_redis: PrivateRedis, tmp_path: Path):
    with make_app(f"sqlite:///{tmp_path}/queue.sqlite", result_backend=private_redis.url) as app:
        os.kill(private_redis.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            app.tasks["workload.add"].delay(1, 2)
            assert elapsed(started) < 0.5 + SLACK
        finally:
            os.kill(private_redis.pid, signal.SIGCONT)
        assert app.broker.stats("celery").ready == 1
