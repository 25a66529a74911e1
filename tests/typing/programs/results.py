"""What type checkers know of results. A line marked `refused` is an error under each of them, and no other line is."""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_type

from celeriac import Celeriac, group
from celeriac.result import AsyncResult, EagerResult, GroupResult, ResultSet, allow_join_result

app = Celeriac("proj", task_ignore_result=False)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True, ignore_result=False)
def names(self: Any, count: int) -> list[str]:
    self.progress(1, count, "soon")
    return ["a"] * count


def one() -> None:
    result: AsyncResult[int] = add.delay(1)
    wrong: AsyncResult[str] = add.delay(1)  # refused
    assert_type(result.get(timeout=1.5, interval=0.1, on_message=print, callback=print), int)
    assert_type(result.wait(), int)
    assert_type(names.delay(3).get(), list[str])
    assert_type(result.date_done, datetime | None)
    assert_type((result.id, result.ready(), result.traceback), tuple[str, bool, str | None])
    result.get(propagate="no")  # refused
    result.then(print, on_error=print).get()
    result.reddy()  # refused
    print(wrong)


def here_and_now() -> None:
    result = names.apply((3,))
    assert_type(result, EagerResult[list[str]])
    assert_type(result.get(), list[str])


def many() -> None:
    results = group(add.s(n) for n in range(3)).apply_async()
    assert_type(results, GroupResult)
    assert_type(results.get(timeout=3), list[Any])
    assert_type(results.completed_count(), int)
    results.get(timout=3)  # refused
    assert_type(results.results[0], Any)
    with allow_join_result():
        ResultSet([add.delay(1), results]).join_native(timeout=2)
    ResultSet([1])  # refused


async def in_coroutines(results: GroupResult, names_of: AsyncResult[list[str]]) -> None:
    assert_type(await names_of, list[str])
    assert_type(await results, list[Any])
    async for result in results:
        print(result.id)
    await names_of.aget(timout=1)  # refused
