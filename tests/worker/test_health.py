"""Health probes of real workers: what they say while all is well, and while it is not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import WAIT, Probe, Site, Worker, wait_until
from tests.servers import PrivateRedis

from celeriac.exceptions import ImproperlyConfigured
from celeriac.supervisor import health


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def fragile(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Site]:
    """A site on a Redis server that the test may do anything to."""
    site = Site(tmp_path, private_redis.url)
    yield site
    site.close()


def test_a_worker_that_takes_messages_is_live_and_ready_until_it_stops(site: Site, probe: Probe):
    worker = site.worker("-c", "2", *probe.flags)
    assert probe.get("/live") == (200, "live")
    probe.wait("/ready", 200, "ready")
    result = site.send("holds", "gate")
    site.wait_note(result, "start")
    assert probe.get("/live") == (200, "live") and probe.get("/ready?verbose") == (200, "ready")
    worker.send_signal(signal.SIGTERM)
    probe.wait("/ready", 503, "not ready: stopping")
    assert probe.get("/live") == (200, "live")
    site.open("gate")
    assert worker.exit_code() == 0
    assert probe.get("/live") == (0, "")


def test_while_the_application_is_imported_a_worker_is_live_and_not_ready(sqlite_site: Site, probe: Probe):
    (sqlite_site.folder / "slow.py").write_text(
        "import time, pathlib\n"
        "while not pathlib.Path('imported').exists(): time.sleep(0.01)\n"
        "from workload import app\n"
    )
    worker = sqlite_site.worker("-I", "slow", "worker_imports=eager", "-c", "1", *probe.flags, ready=False)
    probe.wait("/live", 200, "live")
    assert probe.get("/ready") == (503, "not ready: the application is being imported")
    sqlite_site.open("imported")
    probe.wait("/ready", 200, "ready")
    assert worker.stop() == 0


def test_without_its_broker_a_worker_is_live_and_not_ready(
    fragile: Site, private_redis: PrivateRedis, probe: Probe
):
    private_redis.stop()
    worker = fragile.worker("-c", "1", *probe.flags, ready=False, worker_lease=1.5)
    probe.wait("/ready", 503, "not ready: broker away for ")
    since = away(probe)
    wait_until(lambda: away(probe) > since, worker.log)
    assert probe.get("/live") == (200, "live")
    private_redis.start()
    assert probe.wait("/ready", 200, "ready") < 5.0 + 5.0
    private_redis.kill()
    assert probe.wait("/ready", 503, "broker away") < 1.5 + 5.0
    assert probe.get("/live") == (200, "live")
    private_redis.start()
    probe.wait("/ready", 200, "ready")
    with private_redis.frozen():
        assert probe.wait("/ready", 503, "not ready: ") < 1.5 + 10.0
        assert probe.get("/live") == (200, "live")
    probe.wait("/ready", 200, "ready")
    assert worker.stop() == 0


def test_a_stuck_child_makes_a_worker_not_live_until_it_is_replaced(sqlite_site: Site, probe: Probe):
    """A child that runs something is busy; one that runs nothing and does not come round is stuck."""
    worker = sqlite_site.worker("-c", "2", *probe.flags)
    busy = sqlite_site.send("holds", "gate")
    busy_child = sqlite_site.wait_note(busy, "start")["pid"]
    (idle_child,) = set(worker.children()) - {busy_child}
    for pid in (busy_child, idle_child):
        os.kill(pid, signal.SIGSTOP)
    took = probe.wait("/live", 503, "has not come round for 2", timeout=30.0)
    assert took < 30.0
    wait_until(lambda: idle_child not in worker.children(), worker.log)
    os.kill(busy_child, signal.SIGCONT)
    probe.wait("/live", 200, "live")
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    sqlite_site.open("gate")
    assert busy.get(timeout=WAIT) == busy_child
    assert worker.stop() == 0


def test_a_paused_worker_holds_nothing_against_its_children(sqlite_site: Site, probe: Probe):
    worker = sqlite_site.worker("-c", "1", *probe.flags)
    children = worker.children()
    os.kill(worker.pid, signal.SIGSTOP)
    assert probe.get("/live") == (0, "")
    os.kill(worker.pid, signal.SIGCONT)
    assert probe.get("/live") == (200, "live")
    assert worker.children() == children and worker.stop() == 0


def test_a_template_that_does_not_fork_is_replaced(sqlite_site: Site, probe: Probe):
    worker = sqlite_site.worker("-c", "1", *probe.flags, worker_proc_alive_timeout=1.5)
    template, (child,) = worker.template(), worker.children()
    os.kill(template, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    probe.wait("/ready", 503, "not ready: no child is up")
    worker.wait_log("does not answer: it is replaced")
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    assert worker.template() != template
    assert probe.get("/ready") == (200, "ready") and worker.stop() == 0


def test_the_status_tells_children_and_what_they_run(sqlite_site: Site, probe: Probe):
    worker = sqlite_site.worker("-c", "2", *probe.flags)
    for n in range(5):
        sqlite_site.send("add", n).get(timeout=WAIT)
    result = sqlite_site.send("holds", "gate")
    child = sqlite_site.wait_note(result, "start")["pid"]

    def status() -> dict[str, Any]:
        return json.loads(probe.get("/status")[1])

    wait_until(lambda: status()["condition"]["done"] == 5, worker.log)
    found = status()
    assert found["not_live"] is None and found["not_ready"] is None
    assert found["condition"]["queues"] == ["celery"]
    assert {one["pid"] for one in found["condition"]["children"]} == set(worker.children())
    (run,) = [run for one in found["condition"]["children"] for run in one["runs"] if one["pid"] == child]
    assert run["id"] == result.id and run["name"] == "workload.holds" and run["seconds"] > 0
    sqlite_site.open("gate")
    # The result is there a moment before the child has counted it.
    wait_until(lambda: status()["condition"]["done"] == 6, worker.log)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: child not in worker.children(), worker.log)
    assert status()["condition"]["done"] == 6
    assert worker.stop() == 0


def test_visitors_with_no_manners_disturb_nobody(sqlite_site: Site, probe: Probe):
    worker = sqlite_site.worker("-c", "1", *probe.flags)
    before = sockets(worker)
    assert probe.raw(b"GET /live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    assert probe.raw(b"GET /live HTTP/1.1\nHost: x\n\n", end=True).endswith(b"\r\n\r\nlive\n")
    assert probe.raw(b"HEAD /live HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert b" 405 " in probe.raw(b"POST /live HTTP/1.1\r\n\r\n")
    assert b" 404 " in probe.raw(b"GET /else HTTP/1.1\r\n\r\n")
    for rubbish in (b"\x16\x03\x01\n\n", b"GET\n\n", b"GET live HTTP/1.1\n\n", b"\xff \xff \xff\n\n"):
        assert b" 400 " in probe.raw(rubbish)
    assert probe.raw(b"GET /live", end=True) == b""
    assert probe.raw(b"GET / " + b"x" * 100_000) in (b"", probe.raw(b"x" * 8192))
    silent = [socket.create_connection(("127.0.0.1", probe.port), 10) for _ in range(100)]
    try:
        assert probe.get("/live") == (200, "live")
        assert sockets(worker) <= before + 16
        # The last of them are let in and get no longer than the others.
        assert all(conn.recv(1) == b"" for conn in silent)
    finally:
        for conn in silent:
            conn.close()
    wait_until(lambda: sockets(worker) == before, worker.log)
    assert worker.stop() == 0


def test_a_taken_port_and_a_wrong_address_are_errors_that_leave_no_trace(sqlite_site: Site, tmp_path: Path):
    pidfile = tmp_path / "pid"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = sqlite_site.worker("--pidfile", str(pidfile), "--health", f"127.0.0.1:{port}", ready=False)
        assert worker.exit_code() == 73
    assert f"celeriac: --health 127.0.0.1:{port}: nothing can listen there: Address already" in worker.log()
    for address in (
        "8081",
        "127.0.0.1:",
        ":8081",
        "127.0.0.1:99999",
        "192.0.2.1:8081",
        "no-such-host.invalid:80",
    ):
        worker = sqlite_site.worker("--pidfile", str(pidfile), "--health", address, ready=False)
        assert worker.exit_code() == 64, worker.log()
        assert address in worker.log() and "Traceback" not in worker.log()
    assert not pidfile.exists()


def test_an_ipv6_address_stands_in_brackets():
    try:
        listener = health.listen("[::1]:0")
    except (OSError, ImproperlyConfigured):
        pytest.skip("there is no IPv6 here")
    with listener:
        assert listener.getsockname()[0] == "::1"


def away(probe: Probe) -> int:
    """For how many seconds its broker has been away, as a worker says."""
    told = re.fullmatch(r"not ready: broker away for (\d+) s", probe.get("/ready")[1])
    return int(told[1]) if told else 0


def sockets(worker: Worker) -> int:
    """How many the supervisor has; what it opens for its broker, which here is a file, are others."""
    folder = Path(f"/proc/{worker.pid}/fd")
    found = 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(folder / name).startswith("socket:")
    return found
