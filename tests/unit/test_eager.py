"""Running tasks in their caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, Task, chain, group
from celeriac.exceptions import EncodeError, Ignore, Reject
from celeriac.result import EagerResult


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_always_eager=True) as app:
        yield app


@pytest.fixture
def add(app: Celeriac) -> Any:
    @app.task(name="add")
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    return add


def test_delay_runs_the_task(app: Celeriac, add: Any) -> None:
    result = add.delay(1, 2)
    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, result.successful()) == (3, "SUCCESS", True)
    assert app.broker.stats("celery").ready == 0


def test_arguments_travel_through_the_serializer(app: Celeriac) -> None:
    @app.task
    def kind(x: Any) -> str:
        return type(x).__name__

    assert kind.delay((1, 2)).get() == "list"
    with pytest.raises(EncodeError):
        kind.delay(object())


def test_an_error_is_kept_or_raised(app: Celeriac) -> None:
    @app.task
    def fail() -> None:
        raise KeyError("x")

    result = fail.delay()
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert "KeyError" in str(result.traceback)
    with pytest.raises(KeyError):
        result.get()
    with pytest.raises(KeyError):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        fail.delay()


def test_retries_follow_at_once(app: Celeriac) -> None:
    seen: list[int] = []

    @app.task(bind=True, max_retries=3)
    def flaky(self: Any) -> str:
        seen.append(self.request.retries)
        if len(seen) < 3:
            raise self.retry(countdown=1000)
        return "done"

    assert flaky.delay().get() == "done"
    assert seen == [0, 1, 2]


def test_automatic_retries_end_with_the_error(app: Celeriac) -> None:
    seen: list[int] = []

    @app.task(bind=True, autoretry_for=(OSError,), max_retries=2, retry_backoff=True)
    def fail(self: Any) -> None:
        seen.append(self.request.retries)
        raise OSError("away")

    result = fail.delay()
    assert seen == [0, 1, 2]
    assert isinstance(result.result, OSError)


def test_a_retry_that_is_not_raised_happens_all_the_same(app: Celeriac) -> None:
    seen: list[int] = []

    @app.task(bind=True)
    def one(self: Any) -> int:
        seen.append(self.request.retries)
        if self.request.retries == 0:
            self.retry(throw=False)
        return len(seen)

    assert one.delay().get() == 2


def test_hooks_are_called_in_order(app: Celeriac) -> None:
    seen: list[str] = []

    class Base(Task[..., Any]):
        def before_start(self, *args: Any) -> None:
            seen.append("before_start")

        def on_failure(self, exc: BaseException, *args: Any) -> None:
            seen.append(f"on_failure {exc}")

        def after_return(self, status: str, *args: Any) -> None:
            seen.append(f"after_return {status}")

    @app.task(base=Base)
    def fail() -> None:
        raise ValueError("x")

    fail.delay()
    assert seen == ["before_start", "on_failure x", "after_return FAILURE"]


def test_a_function_may_stand_for_a_hook(app: Celeriac) -> None:
    seen: list[Any] = []

    def tell(self: Any, retval: Any, *args: Any) -> None:
        seen.append((self.name, retval))

    @app.task(on_success=tell, name="told")
    def one() -> int:
        return 3

    one.delay()
    assert seen == [("told", 3)]


def test_links_run_too(app: Celeriac, add: Any) -> None:
    seen: list[Any] = []

    @app.task(name="note")
    def note(value: Any) -> None:
        seen.append(value)

    add.apply_async((1, 2), link=note.s())
    assert seen == [3]


def test_chains_and_groups_run(add: Any) -> None:
    assert chain(add.s(1, 1), add.s(10), add.s(100))().get() == 112
    assert (add.s(1, 1) | add.s(5)).apply_async().parent.get() == 2
    assert group(add.s(i, i) for i in range(3))().get() == [0, 2, 4]


def test_coroutine_functions_run(app: Celeriac) -> None:
    @app.task
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert later.is_async
    assert later.delay(1).get() == 2


def test_ignore_and_reject_end_a_run(app: Celeriac) -> None:
    @app.task
    def one(how: str) -> None:
        raise Ignore if how == "ignore" else Reject("bad", requeue=False)

    assert one.delay("ignore").state == "IGNORED"
    assert one.delay("reject").state == "REJECTED"


def test_an_expired_call_does_not_run(app: Celeriac, add: Any) -> None:
    assert add.apply_async((1,), expires=-1).state == "REVOKED"


def test_the_request_says_so(app: Celeriac) -> None:
    @app.task(bind=True)
    def one(self: Any) -> Any:
        info = self.request
        return [
            info.is_eager,
            info.called_directly,
            info.delivery_info["is_eager"],
            info.delivery_info["routing_key"],
        ]

    assert one.apply_async(queue="video").get() == [True, False, True, "video"]


def test_an_eager_result_may_be_stored(app: Celeriac) -> None:
    app.conf.task_store_eager_result = True

    @app.task(bind=True)
    def one(self: Any) -> int:
        self.update_state(state="PROGRESS", meta={"done": 1})
        assert app.AsyncResult(self.request.id).info == {"done": 1}
        return 7

    result = one.delay()
    assert app.AsyncResult(result.id).get(timeout=1) == 7


def test_waiting_is_allowed_in_an_eager_task(app: Celeriac, add: Any) -> None:
    @app.task
    def outer() -> Any:
        return add.delay(1, 2).get()

    assert outer.delay().get() == 3


def test_a_call_of_the_users_is_passed_on_once(app: Celeriac) -> None:
    seen: list[Any] = []

    class Context(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.request.id)
            return super().__call__(*args, **kwargs)

    @app.task(base=Context, bind=True)
    def one(self: Any) -> Any:
        return self.request.id

    result = one.delay()
    assert result.get() == result.id
    assert seen == [result.id]


def test_a_coroutine_task_runs_inside_a_running_loop(app: Celeriac) -> None:
    @app.task(bind=True)
    async def later(self: Any, x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [x, self.request.is_eager]

    async def main() -> Any:
        return later.delay(3).get(), later.apply((4,)).get(), await later(5)

    assert asyncio.run(main()) == ([3, True], [4, True], [5, False])


def test_an_unknown_option_of_get_is_an_error(add: Any) -> None:
    result = add.apply((1,))
    with pytest.raises(TypeError, match="Did you mean 'on_interval'"):
        result.get(on_intervl=None)
    told: list[Any] = []
    assert result.get(callback=lambda task_id, value: told.append(value)) == 1
    assert told == [1]


def test_ids_of_tasks_within_tasks(app: Celeriac) -> None:
    @app.task(bind=True)
    def ids(self: Any, depth: int) -> list[Any]:
        inner = ids.apply((depth - 1,)).get() if depth else []
        return [(self.request.id, self.request.parent_id, self.request.root_id), *inner]

    first, second, third = ids.apply((2,)).get()
    assert (first[1], first[2]) == (None, first[0])
    assert (second[1], second[2]) == (first[0], first[0])
    assert (third[1], third[2]) == (second[0], first[0])
