"""What a worker does at its start, at a reload and without its broker, as its settings say."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import WAIT, Site, Worker, is_running, wait_until
from tests.servers import PrivateRedis

from celeriac.supervisor import plan

#: An application that is what two files say: settings, and a line of code.
CHANGING = """
import json, pathlib
from workload import app

app.conf.update(json.loads(pathlib.Path("settings.json").read_text()))
exec(pathlib.Path("more.py").read_text())
"""


@pytest.fixture
def fragile(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Site]:
    """A site on a Redis server that the test may do anything to."""
    site = Site(tmp_path, private_redis.url)
    yield site
    site.close()


def changing(site: Site, *flags: str) -> Worker:
    (site.folder / "changing.py").write_text(CHANGING)
    change(site)
    return site.worker("-I", "changing", "worker_imports=eager", *flags)


def change(site: Site, code: str = "", **settings: object) -> None:
    (site.folder / "settings.json").write_text(json.dumps(settings))
    (site.folder / "more.py").write_text(code)


# -- reloading ------------------------------------------------------------------------------------------------


def test_a_reload_brings_new_code_and_ends_no_task(site: Site):
    worker = changing(site, "-c", "2")
    running = site.send("holds", "gate")
    old = site.wait_note(running, "start")["pid"]
    template = worker.template()
    code = "@app.task(name='changing.new', ignore_result=False)\ndef new(): return 'new'\n"
    change(site, code, worker_max_tasks_per_child=3)
    worker.send_signal(signal.SIGHUP)
    assert site.app.send_task("changing.new").get(timeout=WAIT) == "new"
    site.open("gate")
    assert running.get(timeout=WAIT) == old
    wait_until(lambda: not is_running(template) and not is_running(old), worker.log)
    assert len(site.notes(running, "start")) == 1 and worker.stop() == 0


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(3)", "import os; os._exit(9)"])
def test_a_reload_that_fails_keeps_what_there_is(sqlite_site: Site, code: str):
    worker = changing(sqlite_site, "-c", "2")
    tree = worker.tree()
    change(sqlite_site, code)
    worker.send_signal(signal.SIGHUP)
    worker.wait_log("cannot be loaded now")
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    wait_until(lambda: sorted(worker.tree()) == sorted(tree), worker.log)
    change(sqlite_site)
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: not set(worker.tree()[1:]) & set(tree), worker.log)
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"worker_lease": 7.0}, "worker_lease"),
        ({"task_default_queue": "other"}, "the queues"),
        ({"task_max_deliveries": 9}, "task_max_deliveries"),
        ({"broker_url": "memory://"}, "broker_url"),
    ],
)
def test_a_reload_cannot_change_what_leases_depend_on(
    sqlite_site: Site, settings: dict[str, object], named: str
):
    worker = changing(sqlite_site, "-c", "1")
    tree = worker.tree()
    change(sqlite_site, **settings)
    worker.send_signal(signal.SIGHUP)
    worker.wait_log(f"only a restart of the worker can change {named}: it goes on as it was")
    assert "died" not in worker.log()
    assert sqlite_site.send("add", 1).get(timeout=WAIT) == 2
    wait_until(lambda: sorted(worker.tree()) == sorted(tree), worker.log)
    assert worker.stop() == 0


# -- without a broker -----------------------------------------------------------------------------------------


def test_without_retry_on_startup_a_worker_ends_at_once_where_its_broker_is_away(
    fragile: Site, private_redis: PrivateRedis
):
    settings = {"broker_connection_retry_on_startup": False}
    worker = fragile.worker("-c", "1", **settings)
    private_redis.stop()
    late = fragile.worker("-c", "1", ready=False, **settings)
    assert late.exit_code() == 69
    assert "the broker is away, and broker_connection_retry_on_startup is off" in late.log()
    # One that has started waits, as any other.
    worker.wait_log("Cannot connect to")
    private_redis.start()
    assert fragile.send("add", 1).get(timeout=WAIT) == 2
    assert worker.stop() == 0


@pytest.mark.parametrize(
    "settings", [{"broker_connection_retry": False}, {"broker_connection_max_retries": 2}]
)
def test_attempts_to_reconnect_are_counted(
    fragile: Site, private_redis: PrivateRedis, settings: dict[str, object]
):
    worker = fragile.worker("-c", "1", worker_lease=1.0, **settings)
    private_redis.stop()
    assert worker.exit_code() == 69
    assert "the broker has been away for too long" in worker.log()


def test_a_worker_that_cannot_take_ends_with_an_error_and_loses_nothing(
    fragile: Site, private_redis: PrivateRedis
):
    worker = fragile.worker("-c", "2", broker_connection_lost_timeout=1.0, worker_lease=1.5,
                            worker_shutdown_timeout=2.0)  # fmt: skip
    results = [fragile.send("holds", "gate") for _ in range(3)]
    wait_until(lambda: len(fragile.notes(what="start")) == 2, fragile.told)
    killed_at = time.monotonic()
    private_redis.kill()
    fragile.open("gate")
    assert worker.exit_code() == 69
    assert 1.0 <= time.monotonic() - killed_at
    assert "the broker has been away for too long" in worker.log()
    private_redis.start()
    fragile.worker("-c", "2", worker_lease=1.5)
    for result in results:
        result.get(timeout=WAIT)
    fragile.wait_empty()
    assert fragile.stats().dead == 0


def test_a_child_that_is_to_go_waits_for_the_broker_with_what_it_has_run(
    fragile: Site, private_redis: PrivateRedis
):
    worker = fragile.worker("-c", "1", "--max-tasks-per-child", "1", worker_lease=3.0)
    result = fragile.send("holds", "gate")
    child = fragile.wait_note(result, "start")["pid"]
    private_redis.kill()
    fragile.open("gate")
    fragile.wait_note(result, "end")
    until = time.monotonic() + plan.EXIT_TIMEOUT + 2.0  # longer than an exit may take
    wait_until(lambda: time.monotonic() > until)
    assert is_running(child)
    private_redis.start()
    assert result.get(timeout=WAIT) == child
    fragile.wait_empty()
    assert len(fragile.notes(result, "start")) == 1
    wait_until(lambda: not is_running(child), worker.log)
    assert fragile.send("add", 1).get(timeout=WAIT) == 2
    assert "exited prematurely" not in worker.log() and worker.stop() == 0


# -- the import -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pair", "variable"])
def test_how_long_the_import_may_take_is_said_on_the_command_line_or_in_the_environment(
    sqlite_site: Site, how: str
):
    (sqlite_site.folder / "endless.py").write_text("import time\nwhile True: time.sleep(1)\n")
    pairs = ("worker.proc_alive_timeout=0.7",) if how == "pair" else ()
    environ = {"CELERIAC_WORKER_PROC_ALIVE_TIMEOUT": "0.7"} if how == "variable" else {}
    worker = sqlite_site.worker("-I", "endless", "worker_imports=eager", *pairs, environ=environ, ready=False)
    assert worker.exit_code() == 1
    assert "importing the application took longer than 0.7 seconds" in worker.log()
