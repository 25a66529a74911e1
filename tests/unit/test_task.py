"""Declaring tasks, asking for runs, and what `delay` costs."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import celeriac
from celeriac import Celeriac, Task, message, shared_task
from celeriac.exceptions import (
    AlreadyRegistered,
    EncodeError,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    MessageTooLarge,
    Retry,
    SettingHasNoEffect,
    UnknownOption,
)


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        yield app


def sent(app: Celeriac, queue: str = "celery") -> list[message.Message]:
    consumer = app.broker.consumer([queue], "tests", lease=30, max_deliveries=3)
    found = [message.decode(delivery.data) for delivery in consumer.take(1000, 0)]
    consumer.close()
    return found


def test_delay_stores_a_message(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int = 1) -> int:
        return x + y

    result = add.delay(1, y=2)
    (one,) = sent(app)
    assert (one.id, one.task, one.args, one.kwargs) == (result.id, add.name, [1], {"y": 2})
    assert add(1, y=2) == 3


def test_the_task_is_finished_at_once(app: Celeriac) -> None:
    @app.task(name="my.name", max_retries=None, queue="video", priority=7)
    def one() -> None:
        """Says it."""

    assert isinstance(one, Task)
    assert app.tasks["my.name"] is one
    assert (one.__doc__, one.__name__, one.max_retries) == ("Says it.", "one", None)
    one.delay()
    (stored,) = sent(app, "video")
    assert stored.options.priority == 7


def test_a_name_is_the_module_and_the_function(app: Celeriac) -> None:
    @app.task
    def one() -> None: ...

    assert one.name == f"{__name__}.one"
    assert app.gen_task_name("x", "__main__") == "proj.x"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_retires": 3}, "Did you mean 'max_retries'"),
        ({"acks_lat": True}, "Did you mean 'acks_late'"),
        ({"nonsense_of_mine": 1}, "a task has no option"),
        ({"max_retries": "3"}, "'max_retries' of task"),
        ({"priority": 10}, "0 to 9"),
        ({"rate_limit": "10/d"}, "'rate_limit'"),
        ({"autoretry_for": [1]}, "an exception class"),
        ({"time_limit": 0}, "'time_limit'"),
        ({"ignore_result": "yes"}, "True or False"),
    ],
)
def test_a_wrong_task_option_is_an_error(app: Celeriac, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        app.task(**options)(lambda: None)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"coutdown": 3}, "Did you mean 'countdown'"),
        ({"countdown": "3"}, "a number of seconds"),
        ({"countdown": True}, "a number of seconds"),
        ({"countdown": float("nan")}, "a number of seconds"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": -1}, "0 to 9"),
        ({"eta": "tomorrow"}, "ISO 8601"),
        ({"countdown": 1, "eta": "2030-01-01T00:00:00"}, "both given"),
        ({"link": "proj.add"}, "a signature"),
        ({"queue": ""}, "the name of a queue"),
        ({"time_limit": -1}, "more than 0"),
        ({"headers": [1]}, "a dict"),
        ({"task_id": 5}, "a text"),
        ({"serializer": "nonsense"}, "serializer"),
    ],
)
def test_a_wrong_send_option_is_an_error_and_nothing_is_sent(
    app: Celeriac, options: dict[str, Any], text: str
) -> None:
    @app.task
    def one() -> None: ...

    with pytest.raises(ImproperlyConfigured, match=text):
        one.apply_async(**options)
    assert sent(app) == []


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, r"add\(\) missing 2 required positional arguments: 'x' and 'y'"),
        ((1, 2, 3, 4), {}, r"add\(\) takes from 2 to 3 positional arguments but 4 were given"),
        ((1, 2), {"w": 1}, r"add\(\) got an unexpected keyword argument 'w'"),
        ((1, 2), {"x": 1}, r"add\(\) got multiple values for argument 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_the_call(
    app: Celeriac, args: Any, kwargs: Any, text: str
) -> None:
    @app.task
    def add(x: int, y: int, z: int = 0, *, k: int = 0) -> None: ...

    with pytest.raises(TypeError, match=text):
        add.apply_async(args, kwargs)
    assert sent(app) == []


@pytest.mark.parametrize("args", [5, "ab", {"x": 1}])
def test_arguments_are_a_list_or_tuple(app: Celeriac, args: Any) -> None:
    @app.task(typing=False)
    def one(*args: Any) -> None: ...

    with pytest.raises(TypeError, match="a list or tuple"):
        one.apply_async(args)


def test_the_check_can_be_turned_off(app: Celeriac) -> None:
    @app.task(typing=False)
    def one() -> None: ...

    one.apply_async((1, 2))
    assert len(sent(app)) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b=1, /, c=2, *rest, d, e=3, **more: None,
        lambda *, only: None,
        lambda *rest, only=1: None,
        lambda a, /: None,
    ],
)
def test_every_kind_of_parameter_is_checked(app: Celeriac, function: Any) -> None:
    task = app.task(name="all.kinds")(function)
    with pytest.raises(TypeError):
        task.apply_async((), {"a": 1})


def test_self_is_not_an_argument_of_a_bound_task(app: Celeriac) -> None:
    @app.task(bind=True)
    def one(self: Any, x: int) -> None: ...

    one.delay(1)
    with pytest.raises(TypeError, match="'x'"):
        one.apply_async()


def test_arguments_that_do_not_travel_are_an_error(app: Celeriac) -> None:
    @app.task
    def one(x: Any) -> None: ...

    with pytest.raises(EncodeError, match="argument 0 of task"):
        one.delay(object())
    app.conf.task_message_max_size = 1000
    with pytest.raises(MessageTooLarge, match="task_message_max_size"):
        one.delay("x" * 2000)
    assert sent(app) == []


def test_options_of_celery_without_effect_are_accepted_with_a_warning(app: Celeriac) -> None:
    @app.task
    def one() -> None: ...

    with pytest.warns(SettingHasNoEffect, match="mandatory"):
        one.apply_async(mandatory=True)
    assert len(sent(app)) == 1


def test_the_same_name_for_another_function_is_an_error(app: Celeriac) -> None:
    @app.task(name="twice")
    def one() -> None: ...

    with pytest.raises(AlreadyRegistered, match="two tasks are called 'twice'"):

        @app.task(name="twice")
        def two() -> None: ...


def test_a_module_may_be_loaded_again(app: Celeriac) -> None:
    def declare() -> Any:
        def one() -> None: ...

        return app.task(name="again")(one)

    first, second = declare(), declare()
    assert app.tasks["again"] is second is not first


def test_unset_attributes_follow_the_settings(app: Celeriac) -> None:
    @app.task
    def one() -> None: ...

    @app.task(acks_late=False)
    def two() -> None: ...

    app.conf.task_acks_late = True
    app.conf.task_time_limit = 30
    assert (one.acks_late, two.acks_late, one.time_limit) == (True, False, 30)
    app.finalize()
    assert one.__dict__["acks_late"] is True


def test_a_base_class_gives_hooks_and_options(app: Celeriac) -> None:
    seen: list[Any] = []

    class Base(Task[..., Any]):
        abstract = True
        ignore_result = False
        acks_late = None

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(retval)

    @app.task(base=Base)
    def one() -> int:
        return 5

    assert one.hooks == {"on_success"}
    assert (one.ignore_result, one.acks_late) == (False, True)
    one.apply()
    assert seen == [5]


def test_a_class_of_the_users_is_a_task(app: Celeriac) -> None:
    class Add(Task[..., Any]):
        name = "add.class"
        max_retries = 7

        def run(self, x: int, y: int) -> int:
            return x + y

    add = app.register_task(Add())
    assert add.apply((1, 2)).get() == 3
    with pytest.raises(TypeError, match="'y'"):
        add.delay(1)


def test_a_wrong_option_in_a_class_is_an_error(app: Celeriac) -> None:
    class Wrong(Task[..., Any]):
        name = "wrong"
        max_retries = "3"  # type: ignore[assignment]

    with pytest.raises(ImproperlyConfigured, match="max_retries"):
        app.register_task(Wrong)


def test_a_call_of_the_users_is_what_a_worker_calls(app: Celeriac) -> None:
    seen: list[str] = []

    class Context(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.request.id)
            return super().__call__(*args, **kwargs)

    @app.task(base=Context, bind=True)
    def one(self: Any) -> str:
        return str(self.request.id)

    assert one.target is one


def test_a_shared_task_works_in_every_application() -> None:
    @shared_task(name="shared.one", ignore_result=False)
    def one(x: int) -> int:
        return x * 2

    with Celeriac("a", broker="memory://shared-a") as a:
        assert one.name == "shared.one"
        assert one.apply((2,)).get() == 4
        one.delay(3)
        assert [m.args for m in sent(a)] == [[3]]
    with Celeriac("b", broker="memory://shared-b") as b:
        assert "shared.one" in b.tasks
        one.s(4).apply_async()
        assert [m.args for m in sent(b)] == [[4]]


def test_a_task_is_pickled_by_its_name(app: Celeriac) -> None:
    @app.task(name="pickled")
    def one() -> None: ...

    assert pickle.loads(pickle.dumps(one)) is one


def test_coroutines_can_send(app: Celeriac) -> None:
    @app.task
    def one(x: int) -> None: ...

    async def main() -> None:
        await one.adelay(1)
        await one.aapply_async((2,), queue="celery")

    asyncio.run(main())
    assert [m.args for m in sent(app)] == [[1], [2]]


def test_what_is_sent_inside_a_task_knows_its_parent(app: Celeriac) -> None:
    @app.task
    def child() -> None: ...

    @app.task(bind=True, ignore_result=False)
    def parent(self: Any) -> Any:
        child.delay()
        child.apply_async(priority=2)
        return self.request.id

    app.conf.task_inherit_parent_priority = True
    parent_id = parent.apply(priority=5, headers={"tenant": "a"}).get()
    first, second = sorted(sent(app), key=lambda one: -one.options.priority)
    assert (first.options.priority, second.options.priority) == (5, 2)
    assert message.read_id(first.options.parent) == parent_id
    assert message.read_id(first.options.root) == parent_id
    assert first.options.headers is None  # as with Celery: headers and stamps are a message's own


@pytest.mark.parametrize(
    ("args", "kwargs", "new", "expected"),
    [
        ((), {"a": 1, "b": 2, "c": 3}, {"args": (7, 8)}, ((7, 8), {"c": 3})),
        ((1, 2), {}, {"kwargs": {"a": 7}}, ((7, 2), {})),
        ((1,), {"c": 3}, {"kwargs": {"b": 7}}, ((1,), {"b": 7})),
        ((1, 2), {"c": 3}, {}, ((1, 2), {"c": 3})),
        ((1, 2), {"c": 3}, {"args": (5,), "kwargs": {"b": 6}}, ((5,), {"b": 6})),
    ],
)
def test_a_retry_may_give_arguments_in_another_way(
    app: Celeriac, args: Any, kwargs: Any, new: Any, expected: Any
) -> None:
    @app.task(bind=True)
    def one(self: Any, a: int, b: int, c: int = 0) -> None: ...

    request = celeriac.context.Request(one.call_for(args, kwargs, {}).message)
    with celeriac.context.running(one, request), pytest.raises(Retry) as caught:
        one.retry(countdown=1, **new)
    sent = caught.value.sig.message
    assert (tuple(sent.args), sent.kwargs) == expected


def test_retry_makes_the_next_message(app: Celeriac) -> None:
    @app.task(bind=True, default_retry_delay=10, queue="video")
    def one(self: Any, x: int) -> None: ...

    call = one.call_for((1,), {}, {"task_id": "mine"})
    request = celeriac.context.Request(call.message)
    with celeriac.context.running(one, request), pytest.raises(Retry) as caught:
        one.retry(countdown=60, priority=4)
    next_call = caught.value.sig
    assert (next_call.message.id, next_call.message.options.retries, next_call.priority) == ("mine", 1, 4)
    assert next_call.due_at is not None
    assert request.pending_retry is caught.value
    assert sent(app, "video") == []


def test_retries_end(app: Celeriac) -> None:
    @app.task(bind=True, max_retries=1)
    def one(self: Any) -> None: ...

    call = one.call_for((), {}, {"retries": 1})
    with celeriac.context.running(one, celeriac.context.Request(call.message)):
        with pytest.raises(MaxRetriesExceededError, match="Can't retry"):
            one.retry()
        with pytest.raises(ValueError, match="mine"):
            one.retry(exc=ValueError("mine"))


def test_a_direct_call_is_not_retried(app: Celeriac) -> None:
    @app.task(bind=True)
    def one(self: Any) -> None:
        raise self.retry(exc=KeyError("mine"))

    with pytest.raises(KeyError, match="mine"):
        one()


def test_backoff_grows_to_its_bound(app: Celeriac) -> None:
    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), retry_backoff=2,
              retry_backoff_max=30, retry_jitter=False, max_retries=None)  # fmt: skip
    def one() -> None: ...

    delays: list[Any] = []
    for retries in range(6):
        call = one.call_for((), {}, {"retries": retries})
        with celeriac.context.running(one, celeriac.context.Request(call.message)):
            retry = one.retry_of(ConnectionError())
            assert retry is not None
            delays.append(retry.when)
            assert one.retry_of(FileNotFoundError()) is None
            assert one.retry_of(ValueError()) is None
    assert delays == [2, 4, 8, 16, 30, 30]


def test_an_unknown_option_has_celerys_type_too(app: Celeriac) -> None:
    @app.task
    def one() -> None: ...

    with pytest.raises(UnknownOption):
        one.apply_async(nonsense=1)
    with pytest.raises(TypeError):
        one.apply_async(nonsense=1)


def test_a_rate_limit_is_told_not_to_be_enforced(app: Celeriac) -> None:
    with pytest.warns(SettingHasNoEffect, match="rate limits are not enforced in this version"):

        @app.task(rate_limit="10/s")
        def limited() -> None: ...
