"""`app.backend` by task id, as Celery's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celeriac import Celeriac, states
from celeriac.backend import lifetime
from celeriac.results.contract import ResultStore


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        yield app


def test_it_is_a_result_store(app: Celeriac) -> None:
    assert isinstance(app.backend, ResultStore)
    assert app.backend is app.backend


def test_nothing_is_known_at_first(app: Celeriac) -> None:
    meta = app.backend.get_task_meta("a")
    assert (meta["status"], meta["result"], meta["date_done"]) == ("PENDING", None, None)
    assert (app.backend.get_state("a"), app.backend.get_result("a")) == ("PENDING", None)


def test_what_is_stored_is_read(app: Celeriac) -> None:
    assert app.backend.store_result("a", {"n": 1}, states.SUCCESS) == {"n": 1}
    meta = app.backend.get_task_meta("a")
    assert (meta["task_id"], meta["status"], meta["result"]) == ("a", "SUCCESS", {"n": 1})
    assert meta["date_done"].endswith("+00:00")
    assert app.AsyncResult("a").get(timeout=1) == {"n": 1}


def test_states_and_errors_are_kept(app: Celeriac) -> None:
    app.backend.store_result("a", {"done": 3}, "PROGRESS")
    assert (app.backend.get_status("a"), app.AsyncResult("a").info) == ("PROGRESS", {"done": 3})
    app.backend.store_result("b", ValueError("no"), states.FAILURE, traceback="there")
    assert (repr(app.backend.get_result("b")), app.backend.get_traceback("b")) == (
        "ValueError('no')",
        "there",
    )


def test_one_result_is_forgotten_by_its_id(app: Celeriac) -> None:
    app.backend.store_result("a", 1, states.SUCCESS)
    assert app.backend.forget("a") == 1
    assert app.backend.get_state("a") == "PENDING"


def test_errors_may_be_kept_for_another_time(app: Celeriac) -> None:
    app.conf.update(result_expires=60, result_failure_expires=600)
    assert lifetime(app.conf, states.SUCCESS) == 60
    assert lifetime(app.conf, states.FAILURE) == 600
    app.conf.update(result_expires=0, result_failure_expires=None)
    assert lifetime(app.conf, states.SUCCESS) is lifetime(app.conf, states.FAILURE) is None
