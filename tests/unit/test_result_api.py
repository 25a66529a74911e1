"""What results can be asked for beside their values: who is told, what was sent, and many in coroutines."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac, states
from celeriac.context import Request, running
from celeriac.exceptions import IncompleteStream, ResultNotStored, ResultStoreUnavailable, TimeoutError
from celeriac.result import AsyncResult, EagerResult, GroupResult, ResultBase, ResultSet
from celeriac.result_graph import DependencyGraph
from celeriac.stored import Stored, failure_of


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:
        yield app


def succeed(app: Celeriac, task_id: str, value: Any, *sent: Any) -> None:
    children = [child.as_tuple() for child in sent] or None
    app.backend.store_record(task_id, Stored(states.SUCCESS, value, 1.5, children=children))


def fail(app: Celeriac, task_id: str, error: Exception) -> None:
    app.backend.store_record(task_id, failure_of(error, "Traceback: there", 1.5))


# -- then ----------------------------------------------------------------------------------------------------


def test_who_asked_is_told_once_when_the_result_learns_of_its_end(app: Celeriac) -> None:
    told: list[Any] = []
    result = app.AsyncResult("a").then(told.append).then(lambda one: told.append(one.result))
    assert (result.ready(), told) == (False, [])
    succeed(app, "a", 7)
    assert told == []
    assert result.ready()
    assert told == ["a", 7]
    assert (result.get(), told) == (7, ["a", 7])
    result.then(told.append)
    assert told == ["a", 7, "a"]


def test_a_failure_is_told_to_on_error_where_there_is_one(app: Celeriac) -> None:
    told: list[Any] = []
    result = app.AsyncResult("a").then(told.append, lambda error: told.append(repr(error)))
    result.then(lambda one: told.append(one.state))
    fail(app, "a", KeyError("x"))
    with pytest.raises(KeyError):
        result.get(timeout=5)
    assert told == ["KeyError('x')", "FAILURE"]


def test_an_error_can_be_thrown_into_a_result(app: Celeriac) -> None:
    told: list[Any] = []
    result = app.AsyncResult("a").then(print, told.append)
    with pytest.raises(OSError, match="gone") as caught:
        result.throw(OSError("gone"))
    assert told == [caught.value]


@pytest.mark.parametrize("learn", [ResultSet.get, ResultSet.ready])
def test_a_set_tells_when_all_have_ended(app: Celeriac, learn: Any) -> None:
    told: list[Any] = []
    results = ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    results.then(told.append)
    succeed(app, "b", 2)
    assert (results.ready(), told) == (False, [])
    succeed(app, "a", 1)
    learn(results)
    assert told == [results]
    results.then(told.append)
    assert told == [results, results]


def test_a_set_with_a_failure_tells_on_error(app: Celeriac) -> None:
    told: list[Any] = []
    results = ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    results.then(told.append, lambda error: told.append(repr(error)))
    succeed(app, "a", 1)
    fail(app, "b", KeyError("b"))
    results.get(propagate=False, timeout=5)
    assert told == ["KeyError('b')"]


# -- one -----------------------------------------------------------------------------------------------------


def test_an_id_is_needed(app: Celeriac) -> None:
    with pytest.raises(ValueError, match="id"):
        AsyncResult(None, app=app)  # type: ignore[arg-type]


def test_the_error_of_a_wait_that_took_too_long_is_at_hand(app: Celeriac) -> None:
    result = app.AsyncResult("a")
    with pytest.raises(result.TimeoutError):
        result.get(timeout=0)
    with pytest.raises(ResultSet.TimeoutError):
        ResultSet([result]).get(timeout=0)
    assert result.TimeoutError is TimeoutError
    assert result.supports_native_join and ResultSet([]).supports_native_join
    assert isinstance(result, ResultBase) and isinstance(ResultSet([]), ResultBase)


def test_an_interval_is_told_while_it_waits(app: Celeriac) -> None:
    told: list[int] = []

    def count() -> None:
        told.append(1)
        if len(told) == 3:
            succeed(app, "a", 1)

    assert app.AsyncResult("a").get(timeout=20, interval=0.01, on_interval=count) == 1
    assert len(told) == 3


def test_a_result_here_is_read_inside_a_task(app: Celeriac) -> None:
    call = app.producer.call("x", (), {}, {})
    with running(object(), Request(call.message)):
        assert EagerResult("a", 3, states.SUCCESS).get() == 3


def test_a_result_here_raises_what_the_run_raised() -> None:
    error = KeyError("x")
    for state in (states.FAILURE, states.RETRY, states.REVOKED):
        with pytest.raises(KeyError) as caught:
            EagerResult("a", error, state, "the text").get()
        assert caught.value is error
        assert error.__cause__ is None
    told: list[Any] = []
    EagerResult("a", 1, states.SUCCESS).then(told.append)
    assert told == ["a"]
    with pytest.raises(TypeError, match="Did you mean 'callback'"):
        EagerResult("a", 1, states.SUCCESS).get(calback=print)  # type: ignore[call-arg]


# -- what was sent -------------------------------------------------------------------------------------------


@pytest.fixture
def tree(app: Celeriac) -> AsyncResult:
    """root sent a group of a and b; b sent c."""
    members = GroupResult("g", [AsyncResult("a", app=app), AsyncResult("b", app=app)], app=app)
    succeed(app, "root", 0, members)
    succeed(app, "a", 1)
    succeed(app, "b", 2, AsyncResult("c", app=app))
    succeed(app, "c", 3)
    return app.AsyncResult("root")


def test_everything_that_a_task_has_sent_is_found(tree: AsyncResult) -> None:
    assert [(str(parent), str(child)) for parent, child in tree.iterdeps()] == [
        ("None", "root"), ("root", "g"), ("g", "a"), ("g", "b"), ("b", "c"),
    ]  # fmt: skip
    assert [(str(one), value) for one, value in tree.collect()] == [
        ("root", 0), ("g", [1, 2]), ("a", 1), ("b", 2), ("c", 3),
    ]  # fmt: skip
    assert tree.get_leaf() == 3


def test_the_tree_of_a_run_that_goes_on_is_not_known(app: Celeriac, tree: AsyncResult) -> None:
    app.backend.forget("b")
    with pytest.raises(IncompleteStream, match="g has not ended"):
        list(tree.iterdeps())
    assert [str(child) for _, child in tree.iterdeps(intermediate=True)] == ["root", "g"]


def test_collect_waits(app: Celeriac, tree: AsyncResult) -> None:
    app.backend.forget("c")
    timer = threading.Timer(0.05, succeed, (app, "c", 4))
    timer.start()
    assert [value for _, value in tree.collect(timeout=20)][-1] == 4
    timer.join()


def test_the_tree_can_be_drawn(tree: AsyncResult) -> None:
    graph = tree.graph
    assert [str(one) for one in graph.topsort()] == ["a", "c", "b", "g", "root"]
    assert [(str(one), str(other)) for one, other in graph.edges()] == [
        ("root", "g"), ("g", "a"), ("g", "b"), ("b", "c"),
    ]  # fmt: skip
    assert (len(graph), graph.valency_of("b"), graph["b"], "c" in graph) == (5, 2, ["c"], True)
    dot = io.StringIO()
    tree.build_graph(formatter=lambda one: f"<{one}>").to_dot(dot)
    assert dot.getvalue().splitlines()[1:2] == ['  "<root>";']
    assert '  "<b>" -> "<c>";' in dot.getvalue()


def test_a_graph_with_a_cycle_has_no_order() -> None:
    graph = DependencyGraph([("a", ["b"]), ("b", ["c"])])
    assert graph.topsort() == ["c", "b", "a"]
    graph.connect(DependencyGraph([("c", ["a"])]))
    with pytest.raises(ValueError, match="came of itself"):
        graph.topsort()


# -- many ----------------------------------------------------------------------------------------------------


def test_the_first_known_failure_is_raised_without_waiting(app: Celeriac) -> None:
    results = ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    results.maybe_throw()
    fail(app, "b", KeyError("b"))
    with pytest.raises(KeyError):
        results.maybe_reraise()
    results.maybe_throw(propagate=False)


def test_a_group_can_be_saved_elsewhere(app: Celeriac) -> None:
    with Celeriac("other", broker="memory://elsewhere") as other:
        group = GroupResult("g", [app.AsyncResult("a")], app=app)
        group.save(backend=other.backend)
        assert GroupResult.restore("g", app=app) is None
        assert GroupResult.restore("g", other.backend, app) == group
        assert other.GroupResult.restore("g") == group
        group.delete(backend=other.backend)
        assert other.GroupResult.restore("g") is None


def test_coroutines_wait_for_many(app: Celeriac) -> None:
    async def main() -> Any:
        results = GroupResult("g", [app.AsyncResult(name) for name in "abc"], app=app)
        succeed(app, "b", 2)
        succeed(app, "c", 3)
        asyncio.get_running_loop().call_later(0.05, succeed, app, "a", 1)
        return await results

    assert asyncio.run(main()) == [1, 2, 3]


def test_a_coroutine_that_waits_for_many_is_told_of_the_first_failure(app: Celeriac) -> None:
    async def main() -> Any:
        fail(app, "b", KeyError("b"))
        return await ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])

    with pytest.raises(KeyError):
        asyncio.run(main())


def test_coroutines_take_results_as_they_come(app: Celeriac) -> None:
    async def main() -> list[Any]:
        found: list[Any] = []
        succeed(app, "b", 2)
        async for result in GroupResult("g", [app.AsyncResult(name) for name in "abc"], app=app):
            found.append((result.id, result.state, result.result))
            if len(found) == 1:
                fail(app, "c", KeyError("c"))
            if len(found) == 2:
                succeed(app, "a", 1)
        return found

    ended = asyncio.run(main())
    assert [(name, state) for name, state, _ in ended] == [
        ("b", "SUCCESS"),
        ("c", "FAILURE"),
        ("a", "SUCCESS"),
    ]


def test_a_coroutine_that_looks_no_further_leaves_no_thread(app: Celeriac) -> None:
    def followers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "celeriac-results"]

    async def main() -> None:
        succeed(app, "a", 1)
        results = ResultSet([app.AsyncResult("a"), app.AsyncResult("never")])
        async for result in results:
            assert result.id == "a"
            break

    asyncio.run(main())
    for thread in followers():
        thread.join(10)
    assert followers() == []


def test_a_coroutine_is_told_that_nothing_is_kept(app: Celeriac) -> None:
    async def main() -> None:
        async for _ in ResultSet([AsyncResult("a", task_name="quiet", app=app, ignored=True)]):
            pass

    with pytest.raises(ResultNotStored, match="quiet"):
        asyncio.run(main())


# -- the store away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda one, _: one.get(timeout=5),
        lambda one, _: one.state,
        lambda one, _: one.result,
        lambda one, _: one.children,
        lambda one, _: one.traceback,
        lambda one, _: one.ready(),
        lambda one, _: one.exists(),
        lambda one, _: one.maybe_throw(),
        lambda one, _: list(one.collect()),
        lambda one, _: one.forget(),
        lambda one, _: asyncio.run(one.aget(timeout=5)),
        lambda _, many: many.get(timeout=5),
        lambda _, many: list(many.iter_native(timeout=5)),
        lambda _, many: many.ready(),
        lambda _, many: many.completed_count(),
        lambda _, many: many.save(),
        lambda _, many: many.delete(),
        lambda _, many: many.app.GroupResult.restore(many.id),
    ],
)
def test_nobody_is_told_none_by_a_store_that_is_away(ask: Any, closed_port: int) -> None:
    options = {"socket_connect_timeout": 0.2, "socket_timeout": 0.2}
    app = Celeriac(
        "proj",
        broker=f"redis://127.0.0.1:{closed_port}/0",
        broker_transport_options=options,
        task_ignore_result=False,
    )
    with app, pytest.raises(ResultStoreUnavailable):
        ask(app.AsyncResult("a"), app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")]))
