"""Waiting for results: the loop that one result and many share, and who must not wait.

Waiting is done by the store's `watch`: a store that can tell is not polled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypedDict

from celeriac import clock, context, message, plugins, states, stored
from celeriac.context import JOINS_ALLOWED, Results
from celeriac.exceptions import TimeoutError
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored

_LONGEST_WAIT: Final = 5.0
_EXTENDED: Final = ("name", "args", "kwargs", "worker", "retries", "queue", "parent_id", "group_id")
UNKNOWN: Final = Stored(states.PENDING)


class RemoteTraceback(Exception):
    """The traceback of the run, as the cause of the exception that `get` raises."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


@contextmanager
def allow_join_result() -> Generator[None]:
    """Inside the block a task may wait for others. Its slot is taken meanwhile: enough of them stop a worker."""
    token = JOINS_ALLOWED.set(True)
    try:
        yield
    finally:
        JOINS_ALLOWED.reset(token)


@contextmanager
def denied_join_result() -> Generator[None]:
    """Undo `allow_join_result` inside the block."""
    token = JOINS_ALLOWED.set(False)
    try:
        yield
    finally:
        JOINS_ALLOWED.reset(token)


def task_join_will_block() -> bool:
    """Whether waiting for a result here would keep a worker's slot."""
    request = context.worker_request()
    return request is not None and not request.is_eager and not JOINS_ALLOWED.get()


def assert_will_not_block() -> None:
    """Raises: RuntimeError: we are inside a task."""
    if task_join_will_block():
        raise RuntimeError(
            "Never call result.get() within a task! It keeps a slot of the worker while it waits, and when all "
            "slots wait nothing runs. Use a chain, a group or a link; or get(disable_sync_subtasks=False)."
        )


#: A callback of `then`, and what is called instead of it where the run failed.
Listener = tuple[Callable[[Any], Any], Callable[[Any], Any] | None]


class WaitOptions(TypedDict, total=False):
    """What `get` accepts beside `timeout`, `propagate` and `interval`."""

    callback: Callable[[str, Any], Any] | None
    on_message: Callable[[dict[str, Any]], Any] | None
    on_interval: Callable[[], Any] | None
    disable_sync_subtasks: bool
    follow_parents: bool
    no_ack: bool


def check_options(options: WaitOptions) -> None:
    """Raises: TypeError: an option is none of `get`'s."""
    for name in options.keys() - WaitOptions.__annotations__.keys():
        near = plugins.nearest(name, WaitOptions.__annotations__)
        raise TypeError(f"get() got an unexpected keyword argument {name!r}.{near}")


class Wait:
    """How a caller waits, and what it wants to be told meanwhile. Raises: TypeError: an option is unknown."""

    __slots__ = ("callback", "follow_parents", "interval", "on_interval", "on_message")

    def __init__(
        self, interval: float = 0.5, options: WaitOptions | None = None, may_block: bool = True
    ) -> None:
        given = WaitOptions() if options is None else options
        check_options(given)
        if may_block and given.get("disable_sync_subtasks", True):
            assert_will_not_block()
        self.interval = interval
        self.callback = given.get("callback")
        self.on_message = given.get("on_message")
        self.on_interval = given.get("on_interval")
        self.follow_parents = given.get("follow_parents", True)


def arrivals(app: Results, store: ResultStore, keys: Sequence[bytes], timeout: float | None, wait: Wait
) -> Iterator[tuple[bytes, Stored]]:  # fmt: skip
    """The final records of keys as they come.

    Raises:
        TimeoutError: not all of them came within `timeout` seconds.
        ResultStoreUnavailable: the store is away.
    """
    missing = set(keys)
    ends_at = None if timeout is None else clock.monotonic() + timeout
    with store.watch(missing) as watch:
        while missing:
            left = _LONGEST_WAIT if ends_at is None else max(0.0, ends_at - clock.monotonic())
            found = watch.next(min(left, wait.interval if wait.on_interval else _LONGEST_WAIT))
            for key, data in found.items():
                record = read(app, data)
                if wait.on_message is not None:
                    wait.on_message(meta_of(message.id_of(key), record))
                if record.state in states.READY_STATES and key in missing:
                    missing.discard(key)
                    watch.discard([key])
                    yield key, record
            if not found:
                if wait.on_interval is not None:
                    wait.on_interval()
                if missing and left == 0:
                    raise TimeoutError("The operation timed out.")


def read(app: Results, data: bytes) -> Stored:
    """The record that a store's bytes are."""
    return stored.decode(data, app.conf.result_accept_content or app.conf.accept_content)


def meta_of(task_id: str, record: Stored) -> dict[str, Any]:
    """A record as Celery shows it; what `result_extended` adds is there where it was kept."""
    ended_at = None if record.date_done is None else clock.moment(record.date_done).isoformat()
    meta = {
        "task_id": task_id, "status": record.state, "result": record.result, "traceback": record.traceback,
        "children": record.children, "date_done": ended_at,
    }  # fmt: skip
    extended = {name: getattr(record, name) for name in _EXTENDED}
    return meta | {name: value for name, value in extended.items() if value is not None}


def call_back(callback: Callable[[Any], Any], on_error: Callable[[Any], Any] | None, result: Any, final: Stored
) -> None:  # fmt: skip
    """Tell one who asked with `then` how a run ended."""
    if on_error is not None and final.state in states.PROPAGATE_STATES:
        on_error(final.result)
    else:
        callback(result)


def raise_failure(record: Stored) -> None:
    """Raise what a record tells of, if it tells of a failure; the run's traceback is the cause."""
    if record.state in states.PROPAGATE_STATES and isinstance(record.result, BaseException):
        if record.traceback and record.result.__cause__ is None:
            raise record.result from RemoteTraceback(record.traceback)
        raise record.result
