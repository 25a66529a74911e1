"""A task that lets another call take its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, Task, chain, chord, context, message
from celeriac.context import Request
from celeriac.exceptions import Ignore, ImproperlyConfigured
from celeriac.message import Message
from celeriac.outcome import IGNORED, Success
from celeriac.workflow import follow


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:
        yield app


@pytest.fixture
def add(app: Celeriac) -> Any:
    @app.task(name="add", ignore_result=True)
    def add(x: int, y: int = 1) -> int:
        return x + y

    return add


@pytest.fixture
def first(app: Celeriac) -> Any:
    @app.task(name="first", bind=True)
    def first(self: Any) -> None: ...

    return first


def replaced(task: Any, signature: Any, **options: Any) -> list[Message]:
    """What is sent where `task`, called with these options, is replaced with the signature."""
    request = Request(task.call_for((), {}, options).message)
    with context.running(task, request), pytest.raises(Ignore):
        task.replace(signature)
    calls = follow.follow_ups(task, request, IGNORED)
    return [message.decode(task.app.producer.outgoing(call).data) for call in calls]


def test_the_other_has_its_id_and_nothing_is_sent_before_the_run_ends(
    app: Celeriac, first: Any, add: Any
) -> None:
    (sent,) = replaced(first, add.s(1, 2), task_id="mine")
    assert (sent.id, sent.task, sent.args) == ("mine", "add", [1, 2])
    assert (sent.options.replaced, message.read_id(sent.options.root)) == (1, "mine")
    assert app.broker.stats("celery").ready == 0


def test_who_waits_for_the_task_gets_the_others_value(first: Any, add: Any) -> None:
    (sent,) = replaced(first, add.s(1))
    assert sent.options.ignore_result is False
    (sent,) = replaced(first, add.s(1), ignore_result=True)
    assert sent.options.ignore_result is None


def test_callbacks_and_group_go_over(first: Any, add: Any) -> None:
    links = {"link": add.s(5), "link_error": add.si(0, 0), "group_id": "g", "group_index": 3}
    (sent,) = replaced(first, add.s(1), **links)
    assert sent.options.links and sent.options.links[0]["args"] == [5]
    assert sent.options.errbacks and (sent.options.group, sent.options.group_index) == ("g", 3)


def test_a_chain_gives_its_last_step_the_id_and_the_callbacks(first: Any, add: Any) -> None:
    (sent,) = replaced(first, add.s(1) | add.s(2), task_id="mine", link=add.s(5))
    assert sent.id != "mine" and sent.options.links is None and sent.options.replaced == 1
    (last,) = sent.options.chain or []
    assert (last["options"]["task_id"], last["options"]["replaced_task_nesting"]) == ("mine", 1)
    assert last["options"]["link"][0]["args"] == [5]


def test_the_rest_of_its_chain_follows(first: Any, add: Any) -> None:
    later = add.s(7)
    later.freeze("later")
    (sent,) = replaced(first, chain(add.s(1), add.s(2)), task_id="mine", chain=[later])
    assert [step["options"]["task_id"] for step in sent.options.chain or []] == ["later", "mine"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda add: chain(), ImproperlyConfigured),
        (lambda add: add.s(1).set(chord={}), ImproperlyConfigured),
    ],
)
def test_what_cannot_take_its_place_is_an_error(first: Any, add: Any, make: Any, error: Any) -> None:
    with context.running(first, Request(first.call_for((), {}, {}).message)), pytest.raises(error):
        first.replace(make(add))


def test_a_class_may_change_the_replacement(app: Celeriac, add: Any) -> None:
    class Loud(Task[..., Any]):
        def on_replace(self, sig: Any) -> Any:
            return super().on_replace(sig.set(headers={"by": self.name}))

    @app.task(name="loud", base=Loud, bind=True)
    def loud(self: Any) -> None: ...

    (sent,) = replaced(loud, add.s(1))
    assert sent.options.headers == {"by": "loud"}


def test_an_eager_task_is_replaced_in_place(app: Celeriac, add: Any) -> None:
    @app.task(bind=True)
    def one(self: Any) -> Any:
        return self.replace(add.s(2, 3) | add.s(4))

    assert one.apply().get() == 9


def test_the_join_of_a_chord_is_opened_when_the_run_ends(app: Celeriac, first: Any, add: Any) -> None:
    request = Request(first.call_for((), {}, {}).message)
    with context.running(first, request), pytest.raises(Ignore):
        first.replace(chord((add.s(number) for number in range(3)), add.si(0)))
    [join] = request.opened
    assert (join.size, app.backend.grow_join(join.key)) == (3, None)
    follow.follow_ups(first, request, IGNORED)
    assert request.opened == [join]


def test_the_join_of_a_next_step_is_opened_by_the_settlement(app: Celeriac, add: Any) -> None:
    request = Request(add.call_for((1,), {}, {"chain": [chord([add.s(1), add.s(2)], add.si(0))]}).message)
    calls = follow.follow_ups(add, request, Success(2))
    [join] = request.opened
    assert (len(calls), join.size, app.backend.grow_join(join.key)) == (2, 2, None)
