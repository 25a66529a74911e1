"""The pool of greenlets: libraries that wait do so side by side, unchanged, and what does not wait is told of."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness import WAIT, Site, Worker, wait_until
from tests.servers import RedisClient

from celeriac.async_result import AsyncResult
from celeriac.exceptions import TimeLimitExceeded

MANY = 12


def waiting(site: Site, *flags: str, **settings: Any) -> Worker:
    return site.worker(
        "-I", "waiting", "worker_imports=eager", "-P", "gevent", "-c", str(MANY), *flags, **settings
    )


def do(site: Site, name: str, *args: Any, **options: Any) -> AsyncResult:
    return site.app.send_task(f"waiting.{name}", args, **options)


def wait_started(site: Site, count: int = MANY) -> None:
    """Wait until so many tasks run at once."""
    wait_until(lambda: len(site.notes(what="start")) == count, site.told)


@pytest.fixture
def meeting() -> Iterator[str]:
    """The URL of a server that answers nobody before `MANY` have asked."""
    everybody = threading.Barrier(MANY)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            everybody.wait(WAIT)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        request_queue_size = 2 * MANY

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_requests_wait_side_by_side(site: Site, meeting: str):
    waiting(site)
    results = [do(site, "fetches", meeting) for _ in range(MANY)]
    assert [result.get(timeout=WAIT) for result in results] == ["hello"] * MANY


def test_redis_clients_wait_side_by_side(site: Site, redis_server: str, redis_prefix: str):
    waiting(site)
    key = f"{redis_prefix}-list"
    results = [do(site, "pops", redis_server, key) for _ in range(MANY)]
    wait_started(site)
    with RedisClient(redis_server) as client:
        client.call("RPUSH", key, *["item"] * MANY)
    assert [result.get(timeout=WAIT) for result in results] == ["item"] * MANY


def test_psycopg_waits_side_by_side(site: Site, postgres_url: str):
    waiting(site)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        number = connection.info.backend_pid
        connection.execute("select pg_advisory_lock(%s)", [number])
        results = [do(site, "locks", postgres_url, number) for _ in range(MANY)]
        waiters = "select count(*) from pg_locks where locktype = 'advisory' and objid = %s and not granted"
        wait_until(lambda: connection.execute(waiters, [number]).fetchall() == [(MANY,)], site.told)
        connection.execute("select pg_advisory_unlock(%s)", [number])
        assert [result.get(timeout=WAIT) for result in results] == ["locked"] * MANY


def test_sqlite_works(site: Site):
    path = str(site.folder / "counter.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("create table counter as select 0 as value")
    connection.close()
    waiting(site)
    results = [do(site, "counts", path, "gate") for _ in range(MANY)]
    wait_started(site)
    site.open("gate")
    assert [result.get(timeout=WAIT) for result in results] == [MANY] * MANY


def test_programs_are_waited_for_side_by_side(sqlite_site: Site):
    waiting(sqlite_site)
    results = [do(sqlite_site, "runs_program", "gate") for _ in range(3)]
    wait_started(sqlite_site, 3)
    sqlite_site.open("gate")
    assert [result.get(timeout=WAIT) for result in results] == ["done"] * 3


def test_each_run_has_its_own_context_and_its_own_locals(sqlite_site: Site):
    waiting(sqlite_site)
    results = [do(sqlite_site, "colours", colour, "gate") for colour in ("red", "blue", "green")]
    wait_started(sqlite_site, 3)
    sqlite_site.open("gate")
    assert [result.get(timeout=WAIT) for result in results] == [[c, c] for c in ("red", "blue", "green")]


def test_the_application_is_imported_into_a_patched_process(sqlite_site: Site):
    # `waiting` imports requests, and so ssl, at its top.
    waiting(sqlite_site)
    expected = ["socket", "ssl", "threading", "time", "select"]
    assert do(sqlite_site, "patched").get(timeout=WAIT) == expected


def test_a_task_that_blocks_the_loop_is_named_while_it_does_and_keeps_its_lease(site: Site):
    worker = waiting(site, worker_lease=1.5)
    result = do(site, "spins_until", "gate")
    child = site.wait_note(result, "start")["pid"]
    worker.wait_log(f"Task waiting.spins_until[{result.id}] has blocked the event loop for ")
    worker.wait_log("waiting.py")
    worker.wait_log("in spins_until")
    # Another worker would take it, if its lease were not renewed meanwhile.
    site.worker("-c", "1", "-I", "waiting", "worker_imports=eager", worker_lease=1.5)
    assert site.send("sleeps", 2.0).get(timeout=WAIT) == "slept"
    site.open("gate")
    assert result.get(timeout=WAIT) == child
    assert len(site.notes(result, "start")) == 1


def test_what_waits_is_not_told_to_block(sqlite_site: Site):
    worker = waiting(sqlite_site)
    assert sqlite_site.send("sleeps", 2.5).get(timeout=WAIT) == "slept"
    assert "has blocked the event loop" not in worker.log()


def test_a_hard_limit_ends_a_run_that_waits_and_nothing_else(site: Site):
    worker = waiting(site)
    children = worker.children()
    neighbour = site.send("holds", "gate")
    site.wait_note(neighbour, "start")
    overrun = site.call("holds", "never", time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        overrun.get(timeout=WAIT)
    assert site.send("add", 1).get(timeout=WAIT) == 2
    site.open("gate")
    assert neighbour.get(timeout=WAIT) == children[0]
    assert worker.children() == children and "is recycled" not in worker.log()
    assert not site.notes(overrun, "end")


def test_where_a_run_refuses_to_end_its_process_is_replaced_when_the_others_are_done(sqlite_site: Site):
    site = sqlite_site
    worker = waiting(site)
    (old,) = worker.children()
    neighbour = site.send("holds", "gate")
    site.wait_note(neighbour, "start")
    overrun = do(site, "refuses_to_end", "never", time_limit=0.4)
    with pytest.raises(TimeLimitExceeded):
        overrun.get(timeout=WAIT)
    worker.wait_log(f"(pid {old}) is recycled: waiting.refuses_to_end goes on after its hard time limit")
    assert site.notes(overrun, "caught")
    assert site.send("holds", "gate-2") and old in worker.children()
    site.open("gate")
    site.open("gate-2")
    assert neighbour.get(timeout=WAIT) == old
    wait_until(lambda: old not in worker.children(), worker.log)
    assert len(site.notes(neighbour, "start")) == 1 and not site.notes(overrun, "end")


def test_the_pool_cannot_be_chosen_after_the_import(sqlite_site: Site):
    worker = sqlite_site.worker("-c", "2", ready=False, worker_pool="gevent")
    assert worker.exit_code() == 64
    assert "start this worker with  -P gevent" in worker.log() and "Traceback" not in worker.log()


def test_a_setting_on_the_command_line_is_as_good_as_the_flag(sqlite_site: Site):
    sqlite_site.worker("-I", "waiting", "worker_imports=eager", "worker_pool=gevent", "-c", "2")
    assert "socket" in do(sqlite_site, "patched").get(timeout=WAIT)


def test_the_supervisor_is_not_patched_and_does_not_load_gevent(sqlite_site: Site):
    worker = waiting(sqlite_site)
    loaded = {pid: "/gevent/" in Path(f"/proc/{pid}/maps").read_text() for pid in worker.tree()}
    assert loaded.pop(worker.pid) is False and all(loaded.values())


def test_nothing_of_ours_holds_what_gevent_has_replaced(sqlite_site: Site):
    waiting(sqlite_site)
    assert do(sqlite_site, "keeps_unpatched").get(timeout=WAIT) == []
