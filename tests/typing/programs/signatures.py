"""What type checkers know of `s` and `apply_async`. A line marked `refused` is an error under each of them, and no
other line is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ParamSpec, TypeVar, assert_type

from celeriac import Celeriac, Task, chain, chord, group, shared_task, signature
from celeriac.result import AsyncResult

P = ParamSpec("P")
R = TypeVar("R")

app = Celeriac("proj", task_ignore_result=False)


class Tenant(Task[..., Any]):
    """A task class with an option of its own, as many programs have one."""

    def apply_async(self, args: Any = None, kwargs: Any = None, tenant: str = "", **options: Any) -> Any:
        return super().apply_async(args, kwargs, headers={"tenant": tenant}, **options)


class Logged(Task[P, R]):
    """A generic one."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        return super().apply_async(args, {**(kwargs or {})}, **options)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(base=Tenant)
def label(number: int, text: str) -> str:
    return f"{number}: {text}"


@shared_task(bind=True)
def mail(self: Any, to: str, cc: list[str] | None = None, *, urgent: bool = False) -> str:
    return to


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def mean(values: Sequence[float | int], places: float = 2) -> float:
    return sum(values) / len(values)


@app.task
def collect(*parts: int, **named: str) -> int:
    return len(parts)


@app.task
def tidy() -> None: ...


@app.task
def failed(request: Any, exc: Exception, traceback: str, where: str = "here") -> None: ...


@app.task
def six(a: int, b: int, c: int, d: int, e: int, f: int) -> int:
    return a + b + c + d + e + f


def whole_signatures() -> None:
    add.s(1)
    add.s(1, 2).delay()
    add.s(1, y=2).apply_async(countdown=3)
    add.s(x=1, y=2)
    label.s(1, "a").set(queue="video")
    mail.s("me", ["you"], urgent=True)
    collect.s(1, 2, a="b")
    tidy.s()
    six.s(1, 2, 3, 4, 5, 6)


def partial_signatures() -> None:
    chain(add.s(1, 2), add.s(3), label.s("a"), mail.s(["you"]), tidy.si())
    (add.s(1) | add.s() | label.s(text="a") | mail.s(urgent=True)).delay()
    chord([add.s(n) for n in range(3)], total.s())()
    (group(add.s(n, n) for n in range(3)) | mean.s(places=1)).delay()
    add.s(1).on_error(failed.s())
    add.s(1).on_error(failed.s(where="there"))
    six.s(3, 4, 5, 6).delay(1, 2)
    six.s().delay(1, 2, 3, 4, 5, 6)
    label.signature(kwargs={"number": 1}).delay(text="a")
    signature("proj.add", args=(1,), countdown=3)


def refused_signatures() -> None:
    add.s("a")  # refused
    add.s(1, 2, 3)  # refused
    add.s(1, z=2)  # refused
    add.s(y="a")  # refused
    label.s(1, 2)  # refused
    label.s(txt="a")  # refused
    label.s(number=1)  # refused
    mail.s(1)  # refused
    mail.s(urgently=True)  # refused
    total.s(numbrs=[1])  # refused
    tidy.s(1)  # refused
    collect.s(1, "a")  # refused


def calls(some: list[int], named: dict[str, Any], of_any: tuple[Any, ...], anything: Any) -> None:
    assert_type(add.apply_async((1, 2)), AsyncResult[int])
    assert_type(add.apply_async((1,), countdown=3, task_id="mine"), AsyncResult[int])
    assert_type(add.apply_async([1, 2]).get(), int)
    add.apply_async((1,), {"y": 2})
    add.apply_async(args=(1,), kwargs={"y": 2}, queue="video")
    add.apply_async(kwargs={"x": 1})
    add.apply_async(None, named)
    add.apply_async((), named, countdown=3)
    add.apply_async(some)
    add.apply_async(tuple(some), {"y": 1})
    add.apply_async(of_any)
    add.apply_async(of_any, named, **named)
    add.apply_async(anything, anything)
    label.apply_async((1, "a"), tenant="mine")
    assert_type(mail.apply_async(("me",)), AsyncResult[str])
    mail.apply_async(("me", ["you"]), link=tidy.si(), link_error=failed.s())
    total.apply_async(([1, 2],))
    mean.apply_async(([1, 2.5],))
    collect.apply_async()
    collect.apply_async((1, 2, 3))
    tidy.apply_async()
    tidy.apply_async((), countdown=3)
    tidy.apply_async(countdown=3)
    six.apply_async((1, 2, 3, 4, 5, 6))


def send(task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
    task.s(*args, **kwargs)
    return task.apply_async(args, kwargs)


def any_task(task: Task[..., Any]) -> None:
    task.s(1, 2, three=3).delay()
    task.apply_async()
    task.apply_async((1, "two"), countdown=3)


def refused_calls(numbers: tuple[int, ...]) -> None:
    add.apply_async()  # refused
    add.apply_async(countdown=3)  # refused
    add.apply_async(1)  # refused
    add.apply_async("ab")  # refused
    add.apply_async({"x": 1})  # refused
    add.apply_async(("a",))  # refused
    add.apply_async((1, 2, 3))  # refused
    add.apply_async((1, "a"), countdown=3)  # refused
    label.apply_async((1,))  # refused
    label.apply_async((1, 2), tenant="mine")  # refused
    mail.apply_async((1,))  # refused
    total.apply_async((["a"],))  # refused
    tidy.apply_async((1,))  # refused
    add.apply_async(numbers)  # refused
    add.delay(*numbers)
