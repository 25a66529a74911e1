"""Reading results: one, many, errors, states, and who must not wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import Celeriac, Task, message, states
from celeriac.brokers.contract import Delivery
from celeriac.context import Request, running
from celeriac.exceptions import ResultNotStored, TimeoutError
from celeriac.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    result_from_tuple,
)
from celeriac.stored import Stored, failure_of


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:
        yield app


def succeed(app: Celeriac, task_id: str, value: Any) -> None:
    app.backend.store_record(task_id, Stored(states.SUCCESS, value, 1.5))


def fail(app: Celeriac, task_id: str, error: Exception) -> None:
    app.backend.store_record(task_id, failure_of(error, "Traceback: there", 1.5))


def test_nothing_is_known_at_first(app: Celeriac) -> None:
    result = app.AsyncResult("a")
    assert (result.state, result.result, result.ready(), result.exists()) == ("PENDING", None, False, False)
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.02)


def test_a_value_is_read(app: Celeriac) -> None:
    succeed(app, "a", [1, 2])
    result = app.AsyncResult("a")
    assert result.get(timeout=1) == [1, 2]
    assert (result.state, result.status, result.info) == ("SUCCESS", "SUCCESS", [1, 2])
    assert result.successful()
    assert result.date_done == datetime.fromtimestamp(1.5, UTC)


def test_waiting_ends_when_the_value_comes(app: Celeriac) -> None:
    timer = threading.Timer(0.02, succeed, (app, "a", 7))
    timer.start()
    assert app.AsyncResult("a").get(timeout=5) == 7
    timer.join()


def test_an_error_is_raised_with_the_workers_traceback(app: Celeriac) -> None:
    fail(app, "a", ValueError("no luck"))
    result = app.AsyncResult("a")
    with pytest.raises(ValueError, match="no luck") as caught:
        result.get(timeout=1)
    assert "Traceback: there" in str(caught.value.__cause__)
    assert isinstance(result.get(timeout=1, propagate=False), ValueError)
    assert (result.state, result.failed(), result.traceback) == ("FAILURE", True, "Traceback: there")


def test_progress_is_a_state_of_its_own(app: Celeriac) -> None:
    app.backend.store_record("a", Stored("PROGRESS", {"done": 3}))
    result = app.AsyncResult("a")
    assert (result.state, result.info, result.ready()) == ("PROGRESS", {"done": 3}, False)


def test_who_says_that_nothing_is_kept_gets_none_at_once(app: Celeriac) -> None:
    class Quiet(Task[Any, Any]):
        ignore_result = True

    @app.task(ignore_result=True, name="quiet")
    def quiet() -> None: ...

    @app.task(base=Quiet)
    def by_its_class() -> None: ...

    @app.task
    def kept() -> None: ...

    said = [
        quiet.delay(), quiet.apply_async(priority=3), by_its_class.delay(), kept.apply_async(ignore_result=True),
        app.send_task("quiet"), app.send_task("unknown here", ignore_result=True), quiet.s().delay(),
    ]  # fmt: skip
    assert [(result.ignored, result.get()) for result in said] == [(True, None)] * len(said)
    assert asyncio.run(said[0].aget()) is None
    with pytest.raises(TimeoutError):
        quiet.apply_async(ignore_result=False).get(timeout=0)
    failed = quiet.delay()
    fail(app, failed.id, KeyError("x"))
    assert failed.failed()


def test_whose_settings_say_that_nothing_is_kept_is_told_at_once(app: Celeriac) -> None:
    app.conf.task_ignore_result = True

    @app.task(name="plain")
    def plain() -> None: ...

    plain.fix()
    for result in (plain.delay(), plain.apply_async(priority=3), app.send_task("plain")):
        assert result.ignored
        with pytest.raises(ResultNotStored, match="ignore_result=False"):
            result.get()


def test_callbacks_are_told(app: Celeriac) -> None:
    succeed(app, "a", 1)
    told: list[Any] = []
    app.AsyncResult("a").get(
        timeout=1,
        callback=lambda id, value: told.append((id, value)),
        on_message=lambda m: told.append(m["status"]),
    )
    assert told == ["SUCCESS", ("a", 1)]


def test_a_set_tells_of_each_result_as_soon_as_it_and_those_before_it_are_there(app: Celeriac) -> None:
    succeed(app, "a", 1)
    succeed(app, "c", 3)
    told: list[Any] = []
    results = ResultSet([app.AsyncResult(name) for name in "abc"], app=app)
    with pytest.raises(TimeoutError):
        results.get(timeout=0.1, callback=lambda id, value: told.append((id, value)))
    assert told == [("a", 1)]
    succeed(app, "b", 2)
    assert results.get(timeout=1, callback=lambda id, value: told.append((id, value))) == []
    assert told == [("a", 1), ("a", 1), ("b", 2), ("c", 3)]


def test_waiting_inside_a_task_is_refused(app: Celeriac) -> None:
    succeed(app, "a", 1)
    result = app.AsyncResult("a")
    call = app.producer.call("x", (), {}, {})
    with running(object(), Request(call.message, Delivery("q", b"", "o", 1))):
        with pytest.raises(RuntimeError, match=r"Never call result\.get"):
            result.get()
        assert result.get(disable_sync_subtasks=False) == 1
        with allow_join_result():
            assert result.get() == 1


def test_a_misspelt_option_of_get_is_an_error(app: Celeriac) -> None:
    with pytest.raises(TypeError, match="Did you mean 'on_interval'"):
        app.AsyncResult("a").get(on_intervall=print)  # type: ignore[call-arg]


def test_forgetting_deletes(app: Celeriac) -> None:
    succeed(app, "a", 1)
    result = app.AsyncResult("a")
    assert result.ready()
    result.forget()
    assert not result.ready()


def test_a_failed_parent_ends_the_wait(app: Celeriac) -> None:
    fail(app, "first", OSError("first"))
    last = AsyncResult("last", app=app, parent=AsyncResult("first", app=app))
    with pytest.raises(OSError, match="first"):
        last.get(timeout=5)


def test_results_are_equal_by_id_and_plain_data_as_tuples(app: Celeriac) -> None:
    one = AsyncResult("a", app=app, parent=AsyncResult("p", app=app))
    assert one == AsyncResult("a") == "a"
    assert len({one, AsyncResult("a")}) == 1
    assert one.as_tuple() == (("a", (("p", None), None)), None)
    assert result_from_tuple(one.as_tuple(), app).parent == "p"
    group = GroupResult("g", [one], app=app)
    assert result_from_tuple(group.as_tuple(), app) == group
    assert one.as_list() == ["a", "p"]


def test_a_revoked_id_is_kept_by_the_broker(app: Celeriac) -> None:
    app.AsyncResult("a").revoke()
    ResultSet([app.AsyncResult("b")], app=app).revoke()
    assert [one.key for one in app.broker.revoked("celery")] == [message.key_of("a"), message.key_of("b")]


def test_coroutines_can_wait(app: Celeriac) -> None:
    async def main() -> Any:
        result = app.AsyncResult("a")
        asyncio.get_running_loop().call_later(0.02, succeed, app, "a", 5)
        return await result

    assert asyncio.run(main()) == 5


def test_many_are_joined_in_order(app: Celeriac) -> None:
    results = ResultSet([app.AsyncResult(name) for name in "abc"])
    assert (results.ready(), results.completed_count(), results.waiting()) == (False, 0, True)
    for name in "cab":
        succeed(app, name, name.upper())
    assert results.get(timeout=1) == ["A", "B", "C"]
    assert results.successful()
    assert results.completed_count() == 3
    assert sorted(id for id, _ in ResultSet([app.AsyncResult(n) for n in "abc"]).iter_native(timeout=1)) == [
        "a",
        "b",
        "c",
    ]


def test_the_first_error_of_many_is_raised(app: Celeriac) -> None:
    fail(app, "b", KeyError("b"))
    results = ResultSet([app.AsyncResult(name) for name in "ab"])
    with pytest.raises(KeyError):
        results.get(timeout=5)
    succeed(app, "a", 1)
    assert [type(value) for value in results.get(propagate=False, timeout=5)] == [int, KeyError]
    assert results.failed()


def test_many_time_out_together(app: Celeriac) -> None:
    succeed(app, "a", 1)
    with pytest.raises(TimeoutError):
        ResultSet([app.AsyncResult("a"), app.AsyncResult("b")]).get(timeout=0.02)


def test_an_empty_set_is_ready(app: Celeriac) -> None:
    results = ResultSet([], app)
    assert results.ready()
    assert results.get() == []


def test_a_group_of_tasks_that_keep_nothing_names_them(app: Celeriac) -> None:
    results = GroupResult("g", [AsyncResult("a", task_name="quiet", app=app, ignored=True)], app=app)
    with pytest.raises(ResultNotStored, match="quiet"):
        results.get()


def test_a_group_result_can_be_saved(app: Celeriac) -> None:
    group = GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")], app=app)
    group.save()
    assert GroupResult.restore("g", app=app) == group
    group.delete()
    assert app.GroupResult.restore("g") is None


def test_a_set_can_change(app: Celeriac) -> None:
    results = ResultSet([app.AsyncResult("a")], app)
    results.update([app.AsyncResult("a"), app.AsyncResult("b")])
    results.discard("a")
    assert [one.id for one in results] == ["b"]
    with pytest.raises(KeyError):
        results.remove("a")


def test_an_eager_result_has_its_value(app: Celeriac) -> None:
    assert EagerResult("a", 3, states.SUCCESS).get() == 3
    failed = EagerResult("a", ValueError("x"), states.FAILURE, "tb")
    with pytest.raises(ValueError, match="x"):
        failed.get()
    assert (failed.traceback, failed.failed()) == ("tb", True)
