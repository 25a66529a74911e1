"""`app.control` as a caller sees it, on a broker in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from celeriac import Celeriac, group, message, notices, states
from celeriac.app.control import Control, Inspect
from celeriac.brokers.contract import Listener
from celeriac.control import revoking
from celeriac.exceptions import ImproperlyConfigured, TaskRevokedError
from celeriac.notices import Answer, Ask, Revoke

SOON = 10.0


@pytest.fixture
def app() -> Iterator[Celeriac]:
    app = Celeriac("control", broker="memory://control", set_as_current=False)

    @app.task(ignore_result=False, name="add")
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.broker.purge("celery")
    app.close()


@pytest.fixture
def ear(app: Celeriac) -> Iterator[Listener]:
    """What workers would hear."""
    listener = app.broker.listen([notices.WORKERS])
    yield listener
    listener.close()


def test_what_waits_has_ended_and_workers_only_hear_of_it(app: Celeriac, ear: Listener):
    result = app.tasks["add"].delay(1, 2)
    result.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=SOON)
    assert result.state == states.REVOKED
    ((_, data),) = ear.wait(SOON)
    assert notices.read(data) == Revoke(keys=(), ended=(result.key,), keep=10800.0)


def test_what_waits_nowhere_is_told_to_the_workers(app: Celeriac, ear: Listener):
    app.control.revoke(["a", "b"], terminate=True, signal="SIGKILL", destination="w1@test")
    ((_, data),) = ear.wait(SOON)
    assert notices.read(data) == Revoke(
        keys=(message.key_of("a"), message.key_of("b")), keep=10800.0, terminate=True, signal="SIGKILL",
        destination=("w1@test",),
    )  # fmt: skip
    assert app.AsyncResult("a").state == states.PENDING


def test_where_results_are_kept_what_nobody_has_heard_of_is_revoked_at_once(app: Celeriac):
    app.conf.task_ignore_result = False
    consumer = app.broker.consumer(["celery"], "owner", lease=60.0, max_deliveries=3)
    held = app.tasks["add"].delay(1, 2)
    assert len(consumer.take(1, SOON)) == 1
    app.backend.store_result("ended", 3, states.SUCCESS)
    app.backend.store_result("at work", {"at": 1}, "PROGRESS")
    results = [held, *map(app.AsyncResult, ("ended", "at work", "lost"))]
    app.control.revoke([result.id for result in results])
    assert [result.state for result in results] == [
        states.PENDING, states.SUCCESS, "PROGRESS", states.REVOKED,
    ]  # fmt: skip
    last = (app.tasks["add"].s(1, 2) | app.tasks["add"].s(3)).delay()
    last.revoke()
    with pytest.raises(TaskRevokedError):
        last.get(timeout=SOON, follow_parents=False)
    consumer.close()


def test_many_are_told_in_parts(app: Celeriac, ear: Listener):
    app.control.revoke([f"task {n}" for n in range(2500)])
    heard = [notices.read(data) for _, data in ear.wait(SOON)]
    assert [len(one.keys) for one in heard if isinstance(one, Revoke)] == [1000, 1000, 500]


def test_of_very_many_that_waited_the_last_are_told(app: Celeriac, ear: Listener):
    ids = [result.id for result in group(app.tasks["add"].s(n, n) for n in range(6000)).delay()]
    app.control.revoke([*ids, "elsewhere"])
    heard = [one for _, data in ear.wait(SOON) if isinstance(one := notices.read(data), Revoke)]
    assert [(len(one.keys), len(one.ended)) for one in heard] == [(1, 1000), *[(0, 1000)] * 4]
    assert {key for one in heard for key in one.ended} < {message.key_of(one) for one in ids}


@pytest.mark.parametrize(
    ("signal", "meant"), [(None, ""), ("SIGTERM", ""), ("term", ""), (9, "SIGKILL"), ("kill", "SIGKILL")]
)
def test_only_sigkill_ends_a_run_at_once(signal: str | int | None, meant: str):
    assert revoking.signal_of(signal) == meant


@pytest.mark.parametrize("signal", ["SIGNONE", 4711])
def test_a_signal_that_there_is_not_is_an_error(app: Celeriac, signal: str | int):
    with pytest.raises(ImproperlyConfigured, match="no signal"):
        app.control.revoke("a", terminate=True, signal=signal)


def test_workers_are_asked_for_as_long_as_the_caller_waits(app: Celeriac, ear: Listener):
    def answer() -> None:
        for _, data in ear.wait(SOON):
            notice = notices.read(data)
            assert isinstance(notice, Ask)
            app.broker.notify(notice.reply, notices.encode(Answer("w1@test", {"condition": {}})))

    worker = threading.Thread(target=answer)
    worker.start()
    assert app.control.ping(timeout=SOON) == [{"w1@test": {"ok": "pong"}}]
    worker.join()
    assert app.control.ping(["w1@test"], timeout=0.05) == []
    assert app.control.inspect(timeout=0.05).stats() is None


def test_what_there_is_not_names_what_to_use(app: Celeriac):
    assert isinstance(app.control, Control) and isinstance(app.control.inspect(), Inspect)
    with pytest.raises(AttributeError, match="SIGTERM"):
        app.control.pool_shrink()
    with pytest.raises(AttributeError, match="--autoscale"):
        app.control.autoscale(10, 3)
    with pytest.raises(AttributeError, match="Did you mean 'revoke'"):
        app.control.revok("a")
    with pytest.raises(AttributeError, match="logical clocks"):
        app.control.inspect().clock()
    with pytest.raises(TypeError, match="'terminat'"):
        app.control.revoke("a", terminat=True)


def test_purge_deletes_what_waits(app: Celeriac):
    app.tasks["add"].delay(1, 2)
    assert app.control.purge() == 1
