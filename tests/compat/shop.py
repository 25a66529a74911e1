"""An application that was written for Celery, with the import changed: what these tests run in a worker."""

from __future__ import annotations

import os
from typing import Any

from celeriac import Celeriac, Task, chain, shared_task
from celeriac.exceptions import Reject

app = Celeriac(
    "shop",
    broker=os.environ.get("SHOP_BROKER", "memory://shop"),
    task_ignore_result=False,
    result_extended=True,
)


class OutOfStock(Exception):
    """An exception whose args do not tell how to make it again."""

    def __init__(self, item: str, wanted: int) -> None:
        super().__init__(item)
        self.wanted = wanted


@shared_task
def add(x: int, y: int, z: int = 0) -> int:
    return x + y + z


@shared_task(typing=False)
def add_unchecked(x: int, y: int) -> int:
    return x + y


@shared_task(ignore_result=True)
def add_quietly(x: int, y: int) -> int:
    return x + y


@shared_task(bind=True)
def about(self: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id, "root_id": request.root_id, "parent_id": request.parent_id, "group": request.group,
        "headers": request.headers, "stamps": request.stamps, "properties": request.properties,
        "time_limit": request.time_limit, "soft_time_limit": request.soft_time_limit,
        "nesting": request.replaced_task_nesting, "retries": request.retries,
        "priority": request.delivery_info["priority"],
    }  # fmt: skip


@shared_task(bind=True, time_limit=60, soft_time_limit=45)
def about_limited(self: Any) -> list[float]:
    return [self.request.time_limit, self.request.soft_time_limit]


@shared_task(soft_time_limit=2, time_limit=1)
def impossible_limits() -> None: ...


@shared_task
def sell_out(item: str, wanted: int) -> None:
    raise OutOfStock(item, wanted)


@shared_task
def refuse() -> None:
    raise Reject("not mine", requeue=False)


@shared_task(bind=True)
def refuse_once(self: Any) -> str:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("later", requeue=True)
    return "second time"


@shared_task(bind=True, max_retries=1)
def again_by_place(self: Any, x: int, y: int, label: str = "") -> list[Any]:
    if not self.request.retries:
        raise self.retry(args=(x + 1, y + 1), countdown=0)
    return [x, y, label]


@shared_task(bind=True, max_retries=1)
def again_by_name(self: Any, x: int, y: int) -> list[Any]:
    if not self.request.retries:
        raise self.retry(kwargs={"x": x + 10}, countdown=0)
    return [x, y]


@shared_task(bind=True, max_retries=1)
def about_second_run(self: Any) -> dict[str, Any]:
    if not self.request.retries:
        raise self.retry(countdown=0.05)
    info = self.request.delivery_info
    return {"headers": self.request.headers, "stamps": self.request.stamps, "priority": info["priority"]}


@shared_task(bind=True, ignore_result=True)
def twice_quietly(self: Any) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task(bind=True)
def asks_another(self: Any) -> str:
    return about.delay().id


@shared_task(bind=True)
def replaced_times(self: Any, times: int, nesting: tuple[int, ...] = ()) -> Any:
    nesting = (*nesting, self.request.replaced_task_nesting)
    if times:
        return self.replace(replaced_times.s(times - 1, nesting))
    return list(nesting)


@shared_task(bind=True)
def replaced_with_chain(self: Any, x: int) -> Any:
    raise self.replace(chain(add.s(x, 1), add.s(10)))


class Reliable(Task[..., Any]):
    """A task that is a class."""

    name = "reliable"
    autoretry_for = (ConnectionError,)
    retry_kwargs = {"max_retries": 1}
    retry_backoff = 0.05

    def run(self) -> int:
        if self.request.retries:
            return int(self.request.retries)
        raise ConnectionError


app.register_task(Reliable())
