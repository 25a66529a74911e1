"""Tasks that take and return pydantic models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from celeriac import Celeriac, chord, group
from celeriac.contrib.testing.inline import inline_worker
from celeriac.exceptions import EncodeError


class Order(BaseModel):
    number: int
    lines: list[str] = Field(default_factory=list)


class Receipt(BaseModel):
    text: str


class Secret(BaseModel):
    """What it dumps, it is not."""

    word: str = Field(exclude=True)


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Celeriac]:
    with Celeriac("proj", broker=f"memory://{request.node.name}", task_ignore_result=False) as app:
        yield app


@pytest.fixture
def book(app: Celeriac) -> Any:
    @app.task(pydantic=True)
    def book(order: Order, other: Order | None = None, *more: Any, note: str = "") -> Receipt:
        assert type(order) is Order
        return Receipt(text=f"{order.number} {other and other.number} {more} {note}")

    return book


def test_models_travel_as_dicts_and_come_as_models(app: Celeriac, book: Any) -> None:
    with inline_worker(app) as worker:
        results = [
            book.delay(Order(number=1)), book.delay({"number": 2}, other=Order(number=3), note="x"),
            book.s(Order(number=4), None, 5).delay(), *group([book.s(Order(number=6))]).delay(),
        ]  # fmt: skip
        worker.drain()
    assert [result.get(timeout=1)["text"] for result in results] == [
        "1 None () ", "2 3 () x", "4 None (5,) ", "6 None () ",
    ]  # fmt: skip


def test_bound_and_coroutine_tasks_take_them_too(app: Celeriac) -> None:
    @app.task(bind=True, pydantic=True)
    def bound(self: Any, order: Order) -> str:
        return f"{self.name.rpartition('.')[2]} {order.number}"

    @app.task(pydantic=True)
    async def later(order: Order) -> Receipt:
        return Receipt(text=str(order.number))

    with inline_worker(app) as worker:
        results = [bound.delay(Order(number=1)), later.delay(Order(number=2))]
        worker.drain()
    assert [result.get(timeout=1) for result in results] == ["bound 1", {"text": "2"}]
    assert bound.apply((Order(number=3),)).get() == "bound 3"


def test_the_body_of_a_chord_may_take_a_model(app: Celeriac, book: Any) -> None:
    add = app.task(name="add")(lambda x: x)
    with inline_worker(app) as worker:
        result = chord([add.s(1)], book.si(Order(number=7)))()
        worker.drain()
    assert result.get(timeout=1) == {"text": "7 None () "}


def test_what_does_not_fit_fails_in_the_run(app: Celeriac, book: Any) -> None:
    result = book.apply(({"number": "no number"},))
    with pytest.raises(ValueError, match="number"):
        result.get()


def test_a_model_that_cannot_be_made_again_does_not_travel(app: Celeriac) -> None:
    @app.task(pydantic=True)
    def tell(secret: Secret) -> None: ...

    with pytest.raises(EncodeError, match="Secret"):
        tell.delay(Secret(word="x"))


def test_validation_and_dumping_follow_the_options(app: Celeriac) -> None:
    seen: list[Any] = []

    class Watched(BaseModel):
        number: int

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Watched:
            seen.append(
                (options["strict"], options["context"]["shop"], options["context"]["celery_task_name"])
            )
            return super().model_validate(obj, **options)

    def run(order: Any) -> Any:
        return order

    run.__annotations__ = {"order": Watched, "return": Watched}
    task = app.task(
        name="run", pydantic=True, pydantic_strict=True, pydantic_context={"shop": 7},
        pydantic_dump_kwargs={"by_alias": True},
    )(run)  # fmt: skip
    assert task.apply(({"number": 1},)).get() == {"number": 1}
    assert seen == [(True, 7, "run")]
