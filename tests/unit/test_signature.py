"""Signatures, chains and groups: as values, through JSON, and when they are sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, Signature, chain, chord, group, maybe_signature, message, signature
from celeriac.canvas import StampingVisitor
from celeriac.context import Request
from celeriac.exceptions import QueueNotFound, ResultNotStored
from celeriac.outcome import Failure, Success
from celeriac.workflow import follow


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}") as app:
        yield app


@pytest.fixture
def add(app: Celeriac) -> Any:
    @app.task(name="add", ignore_result=False)
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    return add


def sent(app: Celeriac, queue: str = "celery") -> list[message.Message]:
    consumer = app.broker.consumer([queue], "tests", lease=30, max_deliveries=3)
    found = [message.decode(delivery.data) for delivery in consumer.take(1000, 0)]
    return found


def finish(app: Celeriac, one: message.Message, outcome: Any) -> list[message.Message]:
    """What an executor would send after that run."""
    calls = follow.follow_ups(app.tasks[one.task], Request(one), outcome)
    outgoing = [app.producer.outgoing(call) for call in calls]
    return [message.decode(item.data) for item in outgoing]


def test_a_signature_is_a_dict(add: Any) -> None:
    one = add.s(1, y=2)
    assert one == {
        "task": "add", "args": (1,), "kwargs": {"y": 2}, "options": {}, "subtask_type": None, "immutable": False,
    }  # fmt: skip
    assert repr(one) == "add(1, y=2)"
    assert signature("add", args=(1,), kwargs={"y": 2}) == one
    assert add.signature((1,), {"y": 2}) == one
    assert add.si(1).immutable


def test_options_and_arguments_are_added(add: Any) -> None:
    one = add.s(2).set(queue="q")
    assert one.clone((1,), {"z": 3}, priority=4) == add.signature((1, 2), {"z": 3}, queue="q", priority=4)
    assert add.si(2).clone((1,)) == add.si(2)
    assert add.signature((2,), countdown=10).options == {"countdown": 10}
    copy = one.clone()
    copy.options["queue"] = "other"
    assert one.options["queue"] == "q"


def test_a_signature_survives_json(app: Celeriac, add: Any) -> None:
    one = add.s(1) | add.s(2) | group(add.s(3), add.s(4))
    back = maybe_signature(json.loads(json.dumps(one)), app)
    assert isinstance(back, chain)
    assert [type(step) for step in back.tasks] == [Signature, Signature, group]
    assert json.loads(json.dumps(back)) == json.loads(json.dumps(one))


def test_sending_a_signature(app: Celeriac, add: Any) -> None:
    add.s(2).apply_async((1,), queue="celery")
    add.s(2).delay(5)
    app.signature("unknown.task", (1,)).delay()
    assert [(one.task, one.args) for one in sent(app)] == [
        ("add", [1, 2]),
        ("add", [5, 2]),
        ("unknown.task", [1]),
    ]
    assert add.s(2)(3) == 5
    assert add.s(2).apply((3,)).get() == 5


def test_a_frozen_signature_knows_its_result(app: Celeriac, add: Any) -> None:
    one = add.s(1)
    result = one.freeze()
    assert one.apply_async() == result
    assert sent(app)[0].id == result.id


def test_links_are_sent_with_the_result(app: Celeriac, add: Any) -> None:
    one = add.s(1, 2)
    one.link(add.s(10))
    one.link(add.si(7, 7).set(queue="other"))
    one.apply_async()
    (stored,) = sent(app)
    follow_ups = finish(app, stored, Success(3))
    assert [(f.task, f.args) for f in follow_ups] == [("add", [3, 10]), ("add", [7, 7])]
    assert message.read_id(follow_ups[0].options.parent) == stored.id
    assert finish(app, stored, Failure(ValueError(), "")) == []


def test_an_error_callback_of_the_old_style_is_sent_the_id(app: Celeriac, add: Any) -> None:
    @app.task(name="tell")
    def tell(task_id: str) -> None: ...

    result = add.apply_async((1, 2), link_error=tell.s())
    (stored,) = sent(app)
    (told,) = finish(app, stored, Failure(ValueError(), "tb"))
    assert (told.task, told.args) == ("tell", [result.id])


def test_an_error_callback_of_the_new_style_is_called(app: Celeriac, add: Any) -> None:
    seen: list[Any] = []

    @app.task(name="tell")
    def tell(request: Any, exc: Any, traceback: Any) -> None:
        seen.append((request.id, exc, traceback))

    result = add.apply_async((1, 2), link_error=[tell.s()])
    (stored,) = sent(app)
    error = ValueError("x")
    assert finish(app, stored, Failure(error, "tb")) == []
    assert seen == [(result.id, error, "tb")]


def test_a_chain_passes_results_in_its_messages(app: Celeriac, add: Any) -> None:
    result = (add.s(1, 1) | add.s(10) | add.s(100)).apply_async(queue="celery")
    (first,) = sent(app)
    (second,) = finish(app, first, Success(2))
    (third,) = finish(app, second, Success(12))
    assert [one.args for one in (first, second, third)] == [[1, 1], [2, 10], [12, 100]]
    assert [result.parent.parent.id, result.parent.id, result.id] == [first.id, second.id, third.id]
    assert message.read_id(third.options.root) == first.id
    assert message.read_id(third.options.parent) == second.id
    assert finish(app, third, Success(112)) == []


def test_a_chain_stops_at_a_failure_and_tells(app: Celeriac, add: Any) -> None:
    @app.task(name="tell")
    def tell(task_id: str) -> None: ...

    result = chain(add.s(1, 1), add.s(2)).apply_async(link_error=tell.s())
    (first,) = sent(app)
    (told,) = finish(app, first, Failure(ValueError(), ""))
    assert (told.task, told.args) == ("tell", [first.id])
    assert follow.abandoned(Request(first)) == [result.key]


def test_a_task_can_end_its_chain(app: Celeriac, add: Any) -> None:
    chain(add.s(1, 1), add.s(2)).apply_async()
    request = Request(sent(app)[0])
    request.chain = None
    assert follow.follow_ups(add, request, Success(2)) == []


def test_a_chain_may_end_in_a_group(app: Celeriac, add: Any) -> None:
    chain(add.s(1, 1), group(add.s(10), add.s(20))).apply_async()
    (first,) = sent(app)
    members = finish(app, first, Success(2))
    assert [one.args for one in members] == [[2, 10], [2, 20]]
    assert len({one.options.group for one in members}) == 1


def test_chains_are_flattened_and_links_go_to_the_end(app: Celeriac, add: Any) -> None:
    inner = add.s(1) | add.s(2)
    assert len((inner | add.s(3)).tasks) == len((add.s(0) | inner).tasks) == 3
    chain(add.s(1, 1), add.s(2)).apply_async(link=add.s(50))
    (first,) = sent(app)
    (second,) = finish(app, first, Success(2))
    (linked,) = finish(app, second, Success(4))
    assert linked.args == [4, 50]


def test_a_step_after_a_group_makes_a_chord(add: Any) -> None:
    whole = group(add.s(1), add.s(2)) | add.s(3)
    assert isinstance(whole, chord)
    assert [member.args for member in whole.tasks] == [(1,), (2,)]
    assert whole.body.args == (3,)
    longer = whole | add.s(4)
    assert isinstance(longer.body, chain)
    inside = chain(add.s(0), group(add.s(1), add.s(1)), add.s(2), add.s(3))
    assert [step.subtask_type for step in inside.tasks] == [None, "chord"]


def test_the_last_step_of_a_chain_keeps_its_result_when_asked(app: Celeriac) -> None:
    @app.task(name="quiet", ignore_result=True)
    def quiet(x: int) -> int:
        return x

    with pytest.raises(ResultNotStored):
        chain(quiet.s(1), quiet.s()).apply_async().get()
    sent(app)
    result = chain(quiet.s(1), quiet.s()).apply_async(ignore_result=False)
    assert result.ignored is False
    (first,) = sent(app)
    assert first.options.ignore_result is None
    (second,) = finish(app, first, Success(1))
    assert second.options.ignore_result is False


def test_a_group_is_sent_in_bulk_under_one_id(app: Celeriac, add: Any) -> None:
    result = group(add.s(i, i) for i in range(2500)).apply_async(priority=3)
    members = sent(app)
    assert len(result) == 2500
    assert app.broker.stats("celery").ready + len(members) == 2500
    assert [one.args for one in members[:3]] == [[0, 0], [1, 1], [2, 2]]
    assert {message.read_id(one.options.group) for one in members} == {result.id}
    assert [one.options.group_index for one in members[:3]] == [0, 1, 2]
    assert [one.id for one in members] == [one.id for one in result][: len(members)]
    assert {one.options.priority for one in members} == {3}


def test_members_may_have_options_and_arguments_of_their_own(app: Celeriac, add: Any) -> None:
    group(add.s(1).set(queue="other"), add.s(2), app.signature("unknown", (3,))).apply_async((9,))
    assert [one.args for one in sent(app, "other")] == [[9, 1]]
    assert [(one.task, one.args) for one in sent(app)] == [("add", [9, 2]), ("unknown", [9, 3])]


def test_nothing_of_a_group_is_sent_when_one_member_is_wrong(app: Celeriac, add: Any) -> None:
    with pytest.raises(TypeError):
        group(add.s(1), add.s(1, 2, 3)).apply_async()
    app.conf.update(task_create_missing_queues=False, task_queues=["celery"])
    with pytest.raises(QueueNotFound):
        group(add.s(1), add.s(2).set(queue="nowhere")).apply_async()
    assert sent(app) == []


def test_an_apply_async_of_the_users_is_asked_for_every_member(app: Celeriac) -> None:
    from celeriac import Task

    class Tenant(Task[..., Any]):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            options["headers"] = {"tenant": "a"}
            return super().apply_async(*args, **options)

    @app.task(base=Tenant, name="tenant")
    def one(x: int) -> None: ...

    group(one.s(1), one.s(2)).apply_async()
    assert [item.options.headers for item in sent(app)] == [{"tenant": "a"}] * 2


def test_a_group_inside_a_group(app: Celeriac, add: Any) -> None:
    result = group(add.s(1), group(add.s(2), add.s(3))).apply_async()
    assert [one.args for one in sent(app)] == [[1], [2], [3]]
    assert len(list(result.leaves())) == 3


def test_empty_ones_are_false(add: Any) -> None:
    assert not group()
    assert not chain()
    assert chain().apply_async() is None
    assert len(group(add.s(1), add.s(2))) == 2


def test_skew_spreads_a_group(add: Any) -> None:
    skewed = group(add.s(i) for i in range(3)).skew(start=1, step=2)
    assert [member.options["countdown"] for member in skewed.tasks] == [1, 3, 5]


def test_a_pipe_makes_a_chain_where_nobody_has_asked_for_one_by_name() -> None:
    program = (
        "from celeriac import Celeriac; app = Celeriac('x', broker='memory://')\n"
        "add = app.task(name='add')(lambda x: x); print(add.s(1) | add.s())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "" and "add(1) | add()" in done.stdout


class _Marks(StampingVisitor):
    """Stamps every signature, and those of chords with their part in it."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"seen": True}

    def on_chord_header_start(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"place": "header"}

    def on_chord_body(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"place": "body"}


def test_every_signature_of_a_workflow_is_stamped(app: Celeriac, add: Any) -> None:
    whole = chain(add.s(1), group(add.s(2) for _ in range(2)), add.s(3))
    whole.stamp(_Marks())
    first, behind = whole.tasks
    assert first.options["seen"] and "place" not in first.options
    assert [(one.options["seen"], one.options["place"]) for one in behind.tasks] == [(True, "header")] * 2
    assert (behind.body.options["seen"], behind.body.options["place"]) == (True, "body")


def test_a_chord_of_a_list_has_members_of_its_own(app: Celeriac, add: Any) -> None:
    header = [add.s(1), add.s(2)]
    for member in chord(header, add.s()).tasks:
        member.link_error(add.s())
    assert header == [add.s(1), add.s(2)]


def test_a_group_of_a_generator_at_the_end_of_a_chain_has_results(app: Celeriac, add: Any) -> None:
    result = chain(add.s(1), group(add.s(i) for i in range(3))).apply_async()
    assert len(result) == 3
