"""What type checkers know of tasks. A line marked `refused` is an error under each of them, and no other line is."""

from __future__ import annotations

from typing import Any, assert_type

from celeriac import Celeriac, Task, chain, group, shared_task
from celeriac.result import AsyncResult, GroupResult

app = Celeriac("proj", task_ignore_result=False)


class Base(Task[..., Any]):
    """A task class of the application's own."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None: ...


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True, base=Base, queue="mail", autoretry_for=(OSError,), retry_backoff=True)
def mail(self: Task[..., Any], to: str, *, cc: list[str] | None = None) -> str:
    if self.request.retries > 3:
        raise self.retry(countdown=5)
    return to


@shared_task
def shout(text: str) -> str:
    return text.upper()


@shared_task(name="proj.whisper", ignore_result=False)
def whisper(text: str) -> str:
    return text.lower()


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


def delays() -> None:
    assert_type(add.delay(1, y=2), AsyncResult[int])
    add.delay("1")  # refused
    add.delay(1, 2, 3)  # refused
    add.delay(1, z=2)  # refused
    add.delay()  # refused
    assert_type(shout.delay("a"), AsyncResult[str])
    shout.delay(1)  # refused
    assert_type(whisper.delay(text="a"), AsyncResult[str])
    whisper.delay()  # refused


def bound_tasks_are_called_without_self() -> None:
    assert_type(mail.delay("me", cc=["you"]), AsyncResult[str])
    mail.delay(add, "me")  # refused
    mail.delay("me", ["you"])  # refused


def options() -> None:
    result = add.apply_async((1, 2), {"y": 3}, countdown=5, queue="video", task_id="mine")
    assert_type(result.get(timeout=5, propagate=True), int)
    add.apply_async((1,), task_id=3)  # refused
    assert_type(add.apply((1, 2)).get(), int)


def results() -> None:
    result = add.delay(1)
    assert_type(result.get(), int)
    assert_type(result.state, str)
    result.get(disable_sync_subtasks=False, on_interval=None)
    result.get(timout=3)  # refused
    result.get(timeout="3")  # refused
    assert_type(AsyncResult("an id").get(), Any)
    assert_type(app.AsyncResult("an id").get(), Any)


def functions_stay_functions() -> None:
    assert_type(add(1, 2), int)
    add("1")  # refused


async def coroutines() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type(fetch.delay("a").get(), bytes)
    assert_type(await fetch.delay("a"), bytes)
    assert_type(await fetch.delay("a").aget(timeout=1), bytes)
    assert_type(await add.delay(1).aget(), int)
    assert_type(await add.adelay(1), AsyncResult[int])
    await add.adelay("1")  # refused


def workflows() -> None:
    first = add.s(1)
    first.apply_async(countdown=3)
    assert_type(group(add.s(i, i) for i in range(10)).apply_async(), GroupResult)
    chain(first, add.si(1, 2), shout.s()).delay()
    (first | add.s(2)).apply_async()


def signatures_that_take_no_result_are_whole() -> None:
    add.si(1, y=2).delay()
    mail.si("me", cc=["you"]).delay()
    add.s()  # an argument comes from the step before it
    add.si()  # refused
    add.si("1")  # refused
    add.si(1, 2, 3)  # refused
    mail.si()  # refused
    mail.si("me", ["you"])  # refused
