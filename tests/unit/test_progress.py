"""What a run tells of its progress: stored off its thread, the latest always, and nothing after the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.context import Request, enter, leave
from celeriac.events import BUS, TaskStateNotStored
from celeriac.progress import Progress


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:
        yield app


@pytest.fixture
def task(app: Celeriac) -> Any:
    @app.task(name="work")
    def work() -> None: ...

    return work


@pytest.fixture
def request_(app: Celeriac, task: Any) -> Iterator[Request]:
    request = Request(app.producer.call("work", (), {}, {"task_id": "a"}).message)
    enter(task, request)
    yield request
    leave(request)


def seen(app: Celeriac, count: int) -> list[Any]:
    """The next states of the task, as they are stored."""
    found: list[Any] = []
    result = app.AsyncResult("a")
    with app.backend.watch([result.key]) as watch:
        while len(found) < count:
            assert watch.next(20)
            found.append(result.info["current"])
    return found


def test_the_latest_is_stored_when_the_second_is_over(app: Celeriac, task: Any, request_: Request) -> None:
    task.progress(0, 100, "first")
    assert seen(app, 1) == [0]
    for current in range(1, 100):
        task.progress(current, 100)
    assert app.AsyncResult("a").info == {"current": 0, "total": 100, "message": "first"}
    assert seen(app, 2) == [0, 99]


def test_nothing_is_stored_after_the_end(app: Celeriac, task: Any, request_: Request) -> None:
    task.progress(1)
    assert seen(app, 1) == [1]
    task.progress(2)
    request_.progress.close()
    app.backend.store_result("a", "whole", "SUCCESS")
    # Another run's, which the same thread stores afterwards, shows that it has passed over the first.
    other = Request(app.producer.call("work", (), {}, {"task_id": "b"}).message)
    enter(task, other)
    other.progress = Progress(task, other)
    other.progress.due = request_.progress.due + 0.01
    task.progress(3)
    with app.backend.watch([app.AsyncResult("b").key]) as watch:
        assert watch.next(20)
    leave(other)
    assert app.AsyncResult("a").result == "whole"


def test_progress_is_told_in_numbers_and_text(task: Any, request_: Request) -> None:
    for wrong in (("1",), (1, "2"), (1, 2, 3), (True,)):
        with pytest.raises(TypeError, match="progress"):
            task.progress(*wrong)


def test_outside_a_run_it_does_nothing(app: Celeriac, task: Any) -> None:
    task.progress(1, 2)

    @app.task(name="eager", bind=True)
    def eager(self: Any) -> int:
        self.progress(1, 2)
        return 3

    assert eager() == 3
    assert eager.apply().get() == 3


def test_a_store_that_fails_is_told_and_ends_no_run(app: Celeriac, task: Any, request_: Request) -> None:
    told = threading.Event()
    texts: list[str] = []

    def listen(event: TaskStateNotStored) -> None:
        texts.append(event.error)
        told.set()

    app.conf.result_backend = "redis://127.0.0.1:1/0"
    BUS.listen(TaskStateNotStored, listen)
    try:
        task.progress(1)
        assert told.wait(20)
    finally:
        BUS.forget(TaskStateNotStored, listen)
    assert "127.0.0.1:1" in texts[0]
