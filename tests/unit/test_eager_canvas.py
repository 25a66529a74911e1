"""Workflows that run in their caller: the same calls, joins and ends as in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, chain, chord, group
from celeriac.exceptions import ChordError


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_always_eager=True) as app:
        yield app


@pytest.fixture
def seen() -> list[Any]:
    """What the error callbacks were told of."""
    return []


@pytest.fixture(autouse=True)
def tasks(app: Celeriac, seen: list[Any]) -> None:
    @app.task(name="add")
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="fails")
    def fails(*args: Any) -> None:
        raise ValueError(*args)

    @app.task(name="tell")
    def tell(request: Any, exc: Exception, traceback: str) -> None:
        seen.append((request.task, type(exc)))

    @app.task(name="stumbles", bind=True)
    def stumbles(self: Any, x: int) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=1000)
        return x

    @app.task(name="becomes", bind=True)
    def becomes(self: Any, other: Any) -> Any:
        return self.replace(other)


def sig(app: Celeriac, name: str, *args: Any) -> Any:
    return app.tasks[name].s(*args)


def test_a_workflow_is_what_it_is_in_a_worker(app: Celeriac) -> None:
    assert chord([sig(app, "add", i) for i in range(4)], sig(app, "total"))().get() == 6
    assert chord((sig(app, "add", i) for i in range(4)), sig(app, "total"))().get() == 6
    assert chord([], sig(app, "total"))().get() == 0
    whole = chain(
        sig(app, "add", 1), group(sig(app, "add", 1), sig(app, "add", 2)), sig(app, "total"),
        group(sig(app, "add", 10), sig(app, "add", 20)),
    )  # fmt: skip
    assert whole().get() == [15, 25]
    inner = chord([sig(app, "add", 1), sig(app, "add", 2) | sig(app, "add", 3)], sig(app, "total"))
    assert chord([inner.clone(), inner.clone(), sig(app, "add", 1)], sig(app, "total"))().get() == 13
    assert chain(sig(app, "add", 0), *(sig(app, "add", 1) for _ in range(999)))().get() == 999
    assert app.broker.stats("celery").ready == 0


def test_a_group_of_one_in_a_chain_is_its_member_and_before_a_bar_is_a_group(app: Celeriac) -> None:
    add, one = app.tasks["add"], group([app.tasks["add"].s(1, 1)])
    assert chain(one, add.s(3)).delay().get() == chain(one, group([add.s(3)])).delay().get() == 5
    assert (one | app.tasks["total"].s()).delay().get() == 2


def test_map_starmap_and_chunks_run(app: Celeriac) -> None:
    assert app.tasks["total"].map([[1], [2, 3]]).delay().get() == [1, 5]
    assert app.tasks["add"].starmap([(1, 2), (3, 4)]).delay().get() == [3, 7]
    assert app.tasks["add"].chunks(((i, i) for i in range(3)), 2).delay().get() == [[0, 2], [4]]


def test_a_failed_member_fails_the_body_and_tells_once(app: Celeriac, seen: list[Any]) -> None:
    header = [sig(app, "add", 1), sig(app, "fails", "x"), sig(app, "fails", "y"), sig(app, "add", 2)]
    result = chord(header, sig(app, "total").on_error(sig(app, "tell")))()
    assert (result.state, type(result.result)) == ("FAILURE", ChordError)
    assert [one.state for one in result.parent.results] == ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS"]
    assert seen == [("total", ChordError)]


def test_a_callback_that_is_given_with_the_send_is_one_more_of_the_body(app: Celeriac) -> None:
    told: list[Any] = []
    tell = app.task(name="note")(told.append)
    body = sig(app, "total")
    body.link(tell.si("own"))
    chord([sig(app, "add", 1), sig(app, "add", 2)], body).apply_async(link=tell.s())
    assert told == ["own", 3]


def test_an_error_callback_is_called_beside_those_that_a_group_has_of_its_own(app: Celeriac) -> None:
    told: list[str] = []
    tell = app.task(name="note")(told.append)
    body = group(sig(app, "fails"), sig(app, "total")).set(link_error=tell.si("group"))
    chord([sig(app, "add", 1)], body).apply_async(link_error=tell.si("chord"))
    assert sorted(told) == ["chord", "group"]


def test_a_failed_step_ends_the_chain_and_tells_once(app: Celeriac, seen: list[Any]) -> None:
    whole = chain(sig(app, "add", 1), sig(app, "fails"), sig(app, "add", 2))
    whole.link_error(sig(app, "tell"))
    result = whole()
    assert [result.state, result.parent.state, result.parent.parent.state] == [
        "FAILURE",
        "FAILURE",
        "SUCCESS",
    ]
    with pytest.raises(ValueError, match="1"):
        result.get()
    assert seen == [("fails", ValueError)]


def test_retries_and_replacements_keep_their_places(app: Celeriac) -> None:
    add, becomes = app.tasks["add"], app.tasks["becomes"]
    assert becomes.delay(add.s(1, 2) | add.s(10)).get() == 13
    assert becomes.delay(group(add.s(i) for i in range(3))).get() == [0, 1, 2]
    assert (becomes.s(add.s(1, 2)) | add.s(100)).delay().get() == 103
    header = [sig(app, "stumbles", 1), becomes.s(add.s(2)), becomes.s(becomes.s(add.s(3)))]
    assert chord(header, sig(app, "total"))().get() == 6


def test_a_member_may_make_the_chord_larger(app: Celeriac) -> None:
    @app.task(bind=True)
    def grows(self: Any) -> int:
        self.add_to_chord(app.tasks["add"].s(100))
        return 1

    assert chord([grows.s(), grows.s()], sig(app, "total"))().get() == 202


def test_a_workflow_inside_a_task_has_run_when_it_is_sent(app: Celeriac) -> None:
    @app.task
    def outer() -> Any:
        return chord([app.tasks["add"].s(i) for i in range(3)], app.tasks["total"].s()).delay().get()

    assert chord([outer.s(), outer.s()], sig(app, "total"))().get() == 6


def test_the_first_error_is_raised_where_it_is_to_be(app: Celeriac, seen: list[Any]) -> None:
    body = sig(app, "total").on_error(sig(app, "tell"))
    with pytest.raises(ValueError, match="x"):
        chord([sig(app, "fails", "x"), sig(app, "add", 1)], body).apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="1"):
        chain(sig(app, "add", 1), sig(app, "fails"))()
    assert seen == [("total", ChordError)]


def test_apply_runs_a_workflow_here_without_the_setting(app: Celeriac) -> None:
    app.conf.task_always_eager = False
    assert chord([sig(app, "add", 1), sig(app, "add", 2)], sig(app, "total")).apply().get() == 3
    assert group(sig(app, "add", 1), sig(app, "add", 2)).apply().get() == [1, 2]
    assert app.tasks["becomes"].s(sig(app, "add", 1) | sig(app, "add", 2)).apply().get() == 3
    assert app.broker.stats("celery").ready == 0
