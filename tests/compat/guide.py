"""An application as users of Celery write theirs after its guide, with the import changed."""

from __future__ import annotations

import os
import time
from typing import Any

import celeriac
from celeriac import Exchange, Queue, Task, chain, chord, group, shared_task, signals
from celeriac.app.task import Context
from celeriac.contrib.abortable import AbortableTask
from celeriac.exceptions import Ignore, Reject
from celeriac.utils.log import get_task_logger

logger = get_task_logger(__name__)

app = celeriac.Celery("guide", broker=os.environ.get("GUIDE_BROKER", "memory://guide"))


media = Exchange("media", type="direct")


class Config:
    task_ignore_result = False
    result_extended = True
    result_expires = 3600
    task_create_missing_queues = True
    task_queues = [
        Queue("celery"),
        Queue("videos", media, routing_key="media.video"),
        Queue("pictures", media, routing_key="media.image"),
        Queue("feeds", Exchange("feeds", "topic"), routing_key="feed.#"),
        Queue("urgent"),
    ]
    task_routes = {"guide.feeds.*": {"queue": "feeds"}, "guide.thumbnail": "pictures"}


app.config_from_object(Config)


# -- tasks ----------------------------------------------------------------------------------------------------


@app.task
def add(x: float, y: float) -> float:
    return x + y


@app.task
def mul(x: float, y: float) -> float:
    return x * y


@app.task
def xsum(numbers: list[float]) -> float:
    return sum(numbers)


@app.task(bind=True)
def whoami(self: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id, "task": request.task, "args": request.args, "retries": request.retries,
        "queue": request.delivery_info["routing_key"], "hostname": request.hostname, "eager": request.is_eager,
        "root": request.root_id, "parent": request.parent_id, "group": request.group, "headers": request.headers,
        "shadow": request.shadow, "is_context": isinstance(request, Context),
    }  # fmt: skip


class Connected(Task):
    """A task class with something of the process's own."""

    _connection: Any = None
    failures: list[str] = []

    @property
    def connection(self) -> list[int]:
        if self._connection is None:
            self._connection = []
        return self._connection

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        Connected.failures.append(f"{type(exc).__name__} {task_id} {einfo.type.__name__}")


@app.task(base=Connected, bind=True)
def count_rows(self: Any) -> int:
    self.connection.append(1)
    return len(self.connection)


@app.task(base=Connected)
def fails(message: str) -> None:
    raise KeyError(message)


@app.task
def list_failures() -> list[str]:
    return Connected.failures


class Tagged(celeriac.Task):
    """A task that is a class, registered by hand."""

    name = "guide.Tagged"

    def __init__(self) -> None:
        self.users = {"george": "passwd"}

    def run(self, username: str) -> str | None:
        return self.users.get(username)


authenticate = app.register_task(Tagged())


@app.task(bind=True, default_retry_delay=30 * 60)
def fetch(self: Any, url: str, fail: int = 1) -> str:
    try:
        if self.request.retries < fail:
            raise ConnectionError(url)
    except ConnectionError as exc:
        raise self.retry(exc=exc, countdown=0.01, max_retries=2) from exc
    return f"{url} after {self.request.retries}"


@app.task(bind=True, autoretry_for=(ConnectionError,), retry_backoff=0.01, retry_kwargs={"max_retries": 5})
def refresh(self: Any, until: int) -> int:
    if self.request.retries < until:
        raise ConnectionError
    return self.request.retries


@app.task(bind=True)
def upload_files(self: Any, filenames: list[str]) -> str:
    for number, _ in enumerate(filenames):
        if not self.request.called_directly:
            self.update_state(state="PROGRESS", meta={"current": number, "total": len(filenames)})
    return "done"


@app.task(bind=True)
def some_task(self: Any) -> None:
    self.update_state(state="SKIPPED", meta={"why": "not wanted"})
    raise Ignore()


@app.task(bind=True, acks_late=True)
def refuses(self: Any) -> None:
    raise Reject("no thanks", requeue=False)


@app.task(name="guide.feeds.import_feed", bind=True)
def import_feed(self: Any) -> str:
    return str(self.request.delivery_info["routing_key"])


@app.task(bind=True)
def thumbnail(self: Any) -> str:
    return str(self.request.delivery_info["routing_key"])


@shared_task(bind=True)
def says(self: Any, text: str) -> str:
    logger.info("Saying %s", text)
    return f"{self.name}: {text}"


@app.task(bind=True)
def sees(self: Any, what: str) -> None:
    """A callback that tells where one can look."""
    app.backend.store_result(what, self.request.id, "SUCCESS")


@app.task
def error_handler(request: Any, exc: BaseException, traceback: Any) -> None:
    app.backend.store_result(f"error-{request.id}", f"{type(exc).__name__} {exc}", "SUCCESS")


@app.task
def on_chord_error(request: Any, exc: BaseException, traceback: Any) -> None:
    app.backend.store_result(f"chord-error-{request.id}", type(exc).__name__, "SUCCESS")


@app.task(bind=True)
def pages(self: Any, count: int) -> Any:
    raise self.replace(group(add.s(n, n) for n in range(count)) | xsum.s())


@app.task
def update_page_info(url: str) -> Any:
    return chain(fetch_page.s(url), parse_page.s(), store_page_info.s(url))().id


@app.task
def fetch_page(url: str) -> str:
    return f"<{url}>"


@app.task
def parse_page(page: str) -> dict[str, int]:
    return {"length": len(page)}


@app.task
def store_page_info(info: dict[str, int], url: str) -> list[Any]:
    return [url, info["length"]]


@app.task
def import_contacts(count: int) -> Any:
    return chord((add.s(n, 1) for n in range(count)), xsum.s())().id


# -- signals, in the worker -----------------------------------------------------------------------------------

heard: list[str] = []


@signals.task_prerun.connect
def before(sender: Any = None, task_id: str = "", task: Any = None, args: Any = None, **kwargs: Any) -> None:
    heard.append(f"prerun {sender.name} {list(args)}")


@signals.task_success.connect(sender=add)
def succeeded(sender: Any = None, result: Any = None, **kwargs: Any) -> None:
    heard.append(f"success {result}")


@signals.task_failure.connect
def failed(
    sender: Any = None, task_id: str = "", exception: Any = None, einfo: Any = None, **kwargs: Any
) -> None:
    heard.append(f"failure {sender.name} {exception!r}")


@signals.worker_process_init.connect
def begin(**kwargs: Any) -> None:
    heard.append("begin")


@app.task
def list_heard() -> list[str]:
    return heard


# -- contrib --------------------------------------------------------------------------------------------------


@app.task(bind=True, base=AbortableTask)
def search(self: Any) -> str:
    self.update_state(state="SEARCHING")
    until = time.monotonic() + 20
    while not self.is_aborted():
        if time.monotonic() > until:
            return "found nothing"
        time.sleep(0.01)
    return "aborted"
