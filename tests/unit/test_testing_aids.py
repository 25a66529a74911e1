"""What users test their tasks with: a worker in the test's hands, a worker in a thread, and fixtures."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, chain, clock, context, signals, states
from celeriac.contrib.testing.app import TestApp, setup_default_app
from celeriac.contrib.testing.inline import inline_worker
from celeriac.contrib.testing.tasks import ping
from celeriac.contrib.testing.worker import start_worker
from celeriac.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    TaskRevokedError,
    TimeLimitExceeded,
    UnknownOption,
)
from celeriac.testing.stand import until
from celeriac.worker import state


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = TestApp()
    with setup_default_app(app):
        yield app


@pytest.fixture
def ran(app: Celeriac) -> list[Any]:
    """What the tasks `note` and `retries` have noted."""
    noted: list[Any] = []

    @app.task(name="note")
    def note(value: Any) -> Any:
        noted.append(value)
        return value

    @app.task(name="retries", bind=True, default_retry_delay=60, max_retries=2)
    def retries(self: Any, until: int) -> int:
        noted.append(self.request.retries)
        if self.request.retries < until:
            raise self.retry()
        return until

    return noted


# -- in the test's hands --------------------------------------------------------------------------------------


def test_a_drain_runs_what_is_due_and_what_follows(app: Celeriac, ran: list[Any]) -> None:
    note = app.tasks["note"]
    with inline_worker(app) as worker:
        result = chain(note.s(1), note.s(), note.s()).delay()
        assert (worker.drain(), ran, result.get(timeout=1)) == (3, [1, 1, 1], 1)
        assert worker.drain() == 0


def test_time_passes_when_the_test_says_so(app: Celeriac, ran: list[Any]) -> None:
    note = app.tasks["note"]
    before = clock.now()
    with inline_worker(app) as worker:
        note.apply_async((2,), countdown=7200)
        note.apply_async((1,), countdown=3600)
        assert (worker.drain(), worker.advance(3599), ran) == (0, 0, [])
        assert (worker.advance(1), ran) == (1, [1])
        assert (worker.advance(86400), ran) == (1, [1, 2])
        assert clock.now() - before >= 90000 and clock.now_datetime().timestamp() - before >= 90000
    assert clock.now() - before < 3600


def test_each_retry_comes_in_its_own_time(app: Celeriac, ran: list[Any]) -> None:
    with inline_worker(app) as worker:
        result = app.tasks["retries"].delay(2)
        assert (worker.drain(), ran) == (1, [0])
        assert (worker.advance(60), worker.advance(59)) == (1, 0)
        assert (worker.advance(1), ran, result.get(timeout=1)) == (1, [0, 1, 2], 2)


def test_what_expires_on_the_way_does_not_run(app: Celeriac, ran: list[Any]) -> None:
    with inline_worker(app) as worker:
        result = app.tasks["note"].apply_async((1,), expires=60)
        assert (worker.advance(0), ran) == (1, [1])
        result = app.tasks["note"].apply_async((2,), countdown=120, expires=60)
        assert (worker.advance(120), ran, result.state) == (0, [1], "REVOKED")


def test_an_error_is_raised_where_the_test_wants_it(app: Celeriac, ran: list[Any]) -> None:
    with inline_worker(app) as worker:
        app.tasks["retries"].delay(5)
        assert worker.drain(throw=True) == 1
        with pytest.raises(Exception, match="Can't retry"):
            worker.advance(600, throw=True)
        app.tasks["retries"].delay(5)
        assert worker.advance(600) == 3


def test_arguments_travel_as_they_do_to_a_worker(app: Celeriac, ran: list[Any]) -> None:
    with inline_worker(app) as worker:
        app.tasks["note"].delay((1, 2))
        worker.drain()
        with pytest.raises(EncodeError):
            app.tasks["note"].delay(object())
    assert ran == [[1, 2]]


def test_a_task_that_sends_itself_for_ever_is_noticed(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="again")
    def again() -> None:
        again.delay()

    monkeypatch.setattr("celeriac.contrib.testing.inline.MOST", 100)
    with inline_worker(app) as worker:
        again.delay()
        with pytest.raises(RuntimeError, match="no end to it"):
            worker.drain()


def test_only_a_broker_in_memory_can_be_drained(tmp_path: Path) -> None:
    with (
        TestApp(broker=f"sqlite:///{tmp_path}/queue.sqlite") as app,
        pytest.raises(ImproperlyConfigured, match="memory"),
        inline_worker(app),
    ):
        pass


# -- in a thread ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
def test_a_worker_in_a_thread_runs_tasks(app: Celeriac, ran: list[Any], broker: str, tmp_path: Path) -> None:
    if broker == "sqlite":
        app.conf.broker_url = f"sqlite:///{tmp_path}/queue.sqlite"
    with start_worker(app) as worker:
        assert app.tasks["note"].delay(1).get(timeout=10) == 1
        assert worker.app is app
    with start_worker(app, perform_ping_check=False):
        assert app.tasks["note"].delay(2).get(timeout=10) == 2


def test_time_limits_hold_in_a_thread(app: Celeriac) -> None:
    over = threading.Event()

    @app.task(name="naps", time_limit=0.2)
    def naps() -> None:
        until = time.monotonic() + 20
        while not over.is_set() and time.monotonic() < until:
            pass

    with start_worker(app):
        with pytest.raises(TimeLimitExceeded):
            naps.delay().get(timeout=30)
        over.set()


def test_a_worker_in_a_thread_tells_its_life(app: Celeriac) -> None:
    told: list[str] = []

    def tell(signal: Any, **named: Any) -> None:
        told.append(signal.name)

    heard = [getattr(signals, name) for name in signals.__all__ if name.startswith("worker_")]
    for one in heard:
        one.connect(tell)
    with start_worker(app):
        pass
    for one in heard:
        one.disconnect(tell)
    assert told == [
        "worker_init", "worker_process_init", "worker_ready", "worker_shutting_down", "worker_process_shutdown",
        "worker_shutdown",
    ]  # fmt: skip


@pytest.fixture
def remote(app: Celeriac, tmp_path: Path) -> Celeriac:
    """The application, with a broker that tells who listens."""
    app.conf.broker_url = f"sqlite:///{tmp_path}/queue.sqlite"
    return app


def test_a_worker_in_a_thread_answers_whoever_asks(remote: Celeriac, ran: list[Any]) -> None:
    inspect = remote.control.inspect(timeout=10, limit=1)
    with start_worker(remote, hostname="me@test"):
        assert inspect.ping() == {"me@test": {"ok": "pong"}}
        remote.tasks["note"].delay(1).get(timeout=10)
        # The result is there a moment before the run is counted and its slot is free.
        until(lambda: (inspect.stats() or {})["me@test"]["total"].get("note") == 1, "the run is counted")
        until(lambda: inspect.active() == {"me@test": []}, "nothing runs")
        stats = (inspect.stats() or {})["me@test"]
        assert (stats["pid"], stats["pool"]["processes"]) == (os.getpid(), [os.getpid()])
        assert stats["pool"]["max-concurrency"] == 1
        assert [line for line in (inspect.registered() or {})["me@test"] if line.startswith("note")]
        assert inspect.reserved() == {"me@test": []}
    assert remote.control.inspect(timeout=0.1).ping() is None


def test_a_worker_in_a_thread_hears_what_is_revoked(remote: Celeriac) -> None:
    begun, never = threading.Event(), threading.Event()

    @remote.task(name="waits")
    def waits() -> None:
        begun.set()
        while True:
            never.wait(0.01)

    with start_worker(remote, hostname="me@test"):
        result = waits.delay()
        assert begun.wait(10)
        active = (remote.control.inspect(timeout=10, limit=1).active() or {})["me@test"]
        assert [one["id"] for one in active] == [result.id]
        remote.control.revoke(result.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=10)


def test_a_worker_in_a_thread_knows_what_is_revoked_by_stamps(remote: Celeriac, ran: list[Any]) -> None:
    with start_worker(remote, hostname="me@test"):
        remote.control.revoke_by_stamped_headers({"batch": "may"}, reply=True, timeout=10, limit=1)
        # It knows of it a moment after it has answered, and then for good.
        state = ""
        while state != states.REVOKED:
            late = remote.tasks["note"].apply_async(("may",), stamped_headers=["batch"], batch="may")
            late.get(timeout=10, propagate=False)
            state = late.state
        ran.clear()
        late = remote.tasks["note"].apply_async(("may",), stamped_headers=["batch"], batch="may")
        with pytest.raises(TaskRevokedError):
            late.get(timeout=10)
        assert remote.tasks["note"].delay(1).get(timeout=10) == 1
    assert ran == [1]


def test_a_worker_in_a_thread_is_stopped_from_afar(remote: Celeriac, ran: list[Any]) -> None:
    with start_worker(remote, hostname="me@test"):
        assert remote.control.shutdown(reply=True, timeout=10, limit=1) == [
            {"me@test": {"ok": "shutting down"}}
        ]
        # It answers a moment before it stops.
        until(
            lambda: "celeriac-test-worker" not in {one.name for one in threading.enumerate()},
            "it has stopped",
        )
        remote.tasks["note"].delay(1)
    assert ran == []


def test_what_a_worker_in_a_thread_knows_can_be_seen_beside_it(remote: Celeriac, ran: list[Any]) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    @remote.task(name="waits")
    def waits() -> None:
        begun.set()
        goes_on.wait(10)

    assert list(state.all_total_count) == [0]
    with start_worker(remote, perform_ping_check=False):
        result = waits.delay()
        assert begun.wait(10)
        assert [one.id for one in state.active_requests] == [result.id] == list(state.requests)
        assert [one.task for one in state.reserved_requests] == ["waits"]
        assert result.id not in state.successful_requests
        goes_on.set()
        result.get(timeout=10)
        while result.id not in state.successful_requests:
            begun.wait()
        while state.total_count["waits"] != 1:
            begun.wait()
        assert (state.total_count["note"], list(state.all_total_count)) == (0, [1])
        remote.control.revoke("01890000-0000-7000-8000-000000000000")
        while "01890000-0000-7000-8000-000000000000" not in state.revoked:
            begun.wait()
        remote.control.revoke_by_stamped_headers({"batch": "may"})
        while "batch" not in state.revoked_stamps:
            begun.wait()
        assert list(state.revoked_stamps["batch"]) == ["may"]
        state.revoked_stamps.clear()
        assert (
            remote.tasks["note"].apply_async((1,), stamped_headers=["batch"], batch="may").get(timeout=10)
            == 1
        )
    assert not state.successful_requests and not state.total_count and not state.revoked


def test_a_wrong_option_of_a_worker_is_an_error(app: Celeriac) -> None:
    with pytest.raises(UnknownOption, match="'hostname'"), start_worker(app, hostnam="me"):
        pass
    with pytest.raises(ImproperlyConfigured, match="prefork"), start_worker(app, pool="prefork"):
        pass


# -- around a test --------------------------------------------------------------------------------------------


def test_applications_are_as_before_when_a_test_has_ended() -> None:
    before = (context.APPS.default, context.APP.get(), set(context.APPS.all))
    app = TestApp()
    with setup_default_app(app):
        app.set_current()
        app.set_default()
        other = Celeriac("another")
        assert context.current_app() is other or context.current_app() is app
    assert (context.APPS.default, context.APP.get()) == before[:2]


def test_a_trap_tells_who_uses_the_current_application() -> None:
    app = TestApp()
    with setup_default_app(app, use_trap=True), pytest.raises(RuntimeError, match="current_app"):
        _ = context.current_app().conf


PROGRAM = """
import pytest

@pytest.fixture(scope="session")
def celery_config():
    return {"task_default_queue": "mine"}

@pytest.mark.celery(task_default_priority=3)
def test_worker(celery_app, celery_worker):
    assert (celery_app.conf.task_default_priority, celery_app.conf.task_default_queue) == (3, "mine")
    @celery_app.task
    def mul(x, y):
        return x * y
    assert mul.delay(4, 4).get(timeout=10) == 16

def test_inline(celeriac_app, celeriac_inline_worker):
    @celeriac_app.task
    def mul(x, y):
        return x * y
    result = mul.apply_async((4, 4), countdown=60)
    assert celeriac_inline_worker.advance(60) == 1 and result.get() == 16

def test_session(celery_session_app, celery_session_worker):
    assert celery_session_app.tasks["celery.ping"].delay().get(timeout=10) == "pong"

def test_current(depends_on_current_app, celery_app):
    from celeriac import current_app
    assert current_app == celery_app
"""

OWN_NAMES = """
import pytest

@pytest.fixture(scope="session")
def celeriac_config():
    return {"task_default_queue": "mine"}

@pytest.fixture(scope="session")
def celeriac_parameters():
    return {"name": "named"}

@pytest.fixture(scope="session")
def celeriac_worker_parameters():
    return {"queues": ("mine", "other")}

@pytest.fixture(scope="session")
def celeriac_includes():
    return ["mailing"]

@pytest.fixture(scope="session")
def use_celeriac_app_trap():
    return True

@pytest.mark.celeriac(task_default_priority=3)
def test_worker(celeriac_app, celeriac_worker, celery_enable_logging, celery_worker_pool):
    assert (celeriac_app.conf.task_default_priority, celeriac_app.main) == (3, "named")
    @celeriac_app.task(queue="other")
    def mul(x, y):
        return x * y
    assert mul.delay(4, 4).get(timeout=10) == 16

def test_session(celeriac_session_app, celeriac_session_worker):
    import sys
    assert "mailing" in sys.modules
    assert celeriac_session_app.tasks["celery.ping"].delay().get(timeout=10) == "pong"
"""


@pytest.mark.parametrize(("program", "count"), [(PROGRAM, 4), (OWN_NAMES, 2)], ids=["celery", "celeriac"])
def test_the_fixtures_work_in_a_project_of_its_own(tmp_path: Path, program: str, count: int) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("celeriac.contrib.pytest",)')
    (tmp_path / "mailing.py").write_text("")
    (tmp_path / "test_project.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-p", "no:randomly", str(tmp_path),
         "-c", "/dev/null"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["manager", "mocks"])
def test_what_celery_has_for_its_own_tests_says_what_to_use_instead(name: str) -> None:
    with pytest.raises(ImportError, match="inline_worker"):
        importlib.import_module(f"celeriac.contrib.testing.{name}")


def test_a_ping_may_be_registered_by_hand(app: Celeriac) -> None:
    app.set_current()
    app.tasks.register(ping)
    with start_worker(app):
        assert app.tasks["celery.ping"].delay().get(timeout=10) == "pong"
