"""Very many results: little is kept of each, and waiting for them goes page by page."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from celeriac import Celeriac, group, waiting
from celeriac.bulk import Members
from celeriac.exceptions import TimeoutError
from celeriac.message import new_key
from celeriac.result import AsyncResult, GroupResult, ResultSet
from celeriac.stored import Stored, failure_of
from celeriac.waiting import Origin

PAGE = 3


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:

        @app.task(name="same")
        def same(value: Any) -> Any:
            return value

        yield app


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("waiting", "result_sets"):
        monkeypatch.setattr(f"celeriac.{module}.PAGE", PAGE)
    monkeypatch.setattr(waiting, "_TURN", 0.02)


def many(app: Celeriac, count: int) -> GroupResult:
    return group(app.tasks["same"].s(n) for n in range(count)).delay()


def answer(app: Celeriac, results: Any, first: int = 0, last: int | None = None) -> None:
    for value, leaf in islice(enumerate(results.leaves()), first, last):
        app.backend.store_record(leaf.id, Stored("SUCCESS", value, 1.5))


# -- waiting --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pages")
def test_many_values_come_in_order_and_a_page_is_watched_at_a_time(app: Celeriac) -> None:
    results = many(app, 10)
    threading.Timer(0.05, answer, (app, results, 5)).start()
    threading.Timer(0.15, answer, (app, results, 0, 5)).start()
    assert results.get(timeout=30) == list(range(10))
    assert results.get(timeout=30) == list(range(10))


@pytest.mark.usefixtures("small_pages")
def test_what_comes_behind_a_page_that_does_not_is_seen(app: Celeriac) -> None:
    results = many(app, 10)
    answer(app, results, 6)
    ids = [leaf.id for leaf in results.leaves()]
    came = results.iter_native(timeout=30)
    assert {task_id for task_id, _ in islice(came, 4)} == set(ids[6:])
    with pytest.raises(TimeoutError):
        list(results.iter_native(timeout=0.1))
    answer(app, results, 0, 6)
    assert {task_id for task_id, _ in came} == set(ids[:6])


@pytest.mark.usefixtures("small_pages")
def test_a_failure_on_a_later_page_is_raised(app: Celeriac) -> None:
    results = many(app, 10)
    app.backend.store_record(results[8].id, failure_of(KeyError("x"), None))
    with pytest.raises(KeyError):
        results.get(timeout=30)
    assert results.failed() and not results.ready() and not results.successful()


@pytest.mark.usefixtures("small_pages")
def test_many_are_counted_and_told_of(app: Celeriac) -> None:
    results = many(app, 10)
    told: list[Any] = []
    results.then(told.append)
    results[7].then(told.append)
    answer(app, results, 0, 9)
    assert (results.completed_count(), results.ready(), told) == (9, False, [results[7]])
    answer(app, results, 9)
    assert (results.waiting(), results.successful()) == (False, True)
    assert told == [results[7], results]


@pytest.mark.usefixtures("small_pages")
def test_many_are_awaited(app: Celeriac) -> None:
    results = many(app, 10)

    async def values() -> tuple[list[Any], set[Any]]:
        return await results, {result.result async for result in results}

    threading.Timer(0.05, answer, (app, results)).start()
    assert asyncio.run(values()) == (list(range(10)), set(range(10)))


@pytest.mark.usefixtures("small_pages")
def test_one_result_may_be_there_twice(app: Celeriac) -> None:
    one, other = app.tasks["same"].delay(1), app.tasks["same"].delay(2)
    results = ResultSet([one, other, one, one, other])
    threading.Timer(0.05, answer, (app, ResultSet([one, other]))).start()
    assert results.get(timeout=30) == [0, 1, 0, 0, 1]


@pytest.mark.usefixtures("small_pages")
def test_groups_in_a_large_set_keep_their_form(app: Celeriac) -> None:
    results = ResultSet([many(app, 5), app.tasks["same"].delay(0), many(app, 1)])
    answer(app, results)
    assert results.get(timeout=30) == [[0, 1, 2, 3, 4], 5, [6]]


# -- memory ---------------------------------------------------------------------------------------------------


def test_a_result_takes_ninety_bytes_with_its_place_in_a_list_and_a_member_sixteen() -> None:
    origin, count = Origin(None, None, "same", False), 5_000
    keys = [new_key() for _ in range(count)]
    tracemalloc.start()
    try:
        results = [AsyncResult.sent(key, origin) for key in keys]
        plain, _ = tracemalloc.get_traced_memory()
        members = Members()
        for key in keys:
            members.append_sent(key, origin)
        both, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plain / count < 92 and (both - plain) / count < 25
    assert members == results


@pytest.mark.parametrize(
    "key",
    [
        bytes(16),
        b"\xff" * 16,
        bytes.fromhex("7ff0000000000001fff0000000000001"),
        bytes([0, 1] * 8),
        new_key(),
    ],
    ids=["zeros", "ones", "two numbers that are none", "a small number", "a fresh id"],
)
def test_a_result_keeps_every_bit_of_its_key(key: bytes) -> None:
    result: Any = AsyncResult.sent(key, Origin(None, None, "same", False))
    assert result.key == key == AsyncResult(result.id).key


def test_waiting_for_many_takes_a_few_bytes_for_each(
    app: Celeriac, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = 300
    for module in ("waiting", "result_sets"):
        monkeypatch.setattr(f"celeriac.{module}.PAGE", page)
    results = many(app, 3 * page)
    tracemalloc.start()
    try:
        with pytest.raises(TimeoutError):
            results.get(timeout=0)
        few = tracemalloc.get_traced_memory()[1]
        more = many(app, 9 * page)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(TimeoutError):
            more.get(timeout=0)
        assert tracemalloc.get_traced_memory()[1] - before < few + 6 * page * 30
    finally:
        tracemalloc.stop()


# -- members as a list ----------------------------------------------------------------------------------------


def test_the_members_are_a_list_to_whoever_uses_them(app: Celeriac) -> None:
    results = many(app, 4)
    members, ids = results.results, [result.id for result in results]
    assert members[0] is members[0] and members[-1].id == ids[3]
    assert [one.id for one in members[1:3]] == ids[1:3] == [one.id for one in [*members][1:3]]
    assert ids[2] in members and members == list(members) and members != []
    extra = app.AsyncResult("extra")
    more = [extra]
    results.add(extra)
    results.remove(ids[1])
    assert [one.id for one in results] == [ids[0], ids[2], ids[3], "extra"] and members[3] is extra
    members[0] = extra
    assert [one.id for one in members + more] == ["extra", ids[2], ids[3], "extra", "extra"]
    results.clear()
    assert len(results) == 0 and not members


def test_members_of_several_tasks_stand_side_by_side(app: Celeriac) -> None:
    @app.task(name="other")
    def other(value: Any) -> Any: ...

    results = group(task.s(1) for task in (app.tasks["same"], other, app.tasks["same"])).delay()
    assert [one.task_name for one in results] == ["same", "other", "same"]
    assert len({one.id for one in results}) == 3


def test_what_a_member_knows_is_its_own(app: Celeriac) -> None:
    results = many(app, 2)
    results[0].parent = app.AsyncResult("before")
    answer(app, results, 0, 1)
    assert results[0].ready() and results[1].final is None and results[1].parent is None
    assert many(app, 1)[0].parent is None
