"""Waiting for results: the loop that one result and many share, and who must not wait.

Waiting is done by the store's `watch`: a store that can tell is not polled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypedDict

from celeriac import clock, context, message, plugins, states, stored
from celeriac.context import JOINS_ALLOWED, Results
from celeriac.exceptions import ChordError, ResultNotStored, TimeoutError
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored

_LONGEST_WAIT: Final = 5.0
#: So many results are watched at once. Of more than that, nothing is remembered here: they are read again when asked.
PAGE: Final = 5_000
#: Seconds for which a page is watched where there are others.
_TURN: Final = 2.0
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


class Origin:
    """What the results of a task's calls have in common. Many share one, so it is never changed."""

    __slots__ = ("app", "ignored", "is_none", "store", "task_name")

    #: What a result has of its own, see `Own`.
    parent: Any = None
    final: Stored | None = None
    told: list[Listener] | None = None

    def __init__(
        self,
        app: Results | None,
        store: ResultStore | None,
        task_name: str | None,
        ignored: bool | None,
        is_none: bool = False,
    ) -> None:
        """`is_none`: what is got is None, at once: the caller's code itself says that nothing is kept."""
        self.app = app
        self.store = store
        self.task_name = task_name
        self.ignored = ignored
        self.is_none = is_none

    def is_dropped(self, result: Any) -> bool:
        """Whether nothing is to be waited for. Raises: ResultNotStored: and the caller may not know that."""
        if self.ignored and not self.is_none:
            raise ResultNotStored(
                f"task {self.task_name or result.id!r} does not keep its results, so there is nothing to wait for. "
                "Declare it with @app.task(ignore_result=False), call it with apply_async(ignore_result=False), "
                "or set task_ignore_result=False."
            )
        return self.is_none

    def is_like(self, other: Origin) -> bool:
        """Whether one can stand for the other."""
        return all(getattr(self, name) == getattr(other, name) for name in Origin.__slots__)


class Own(Origin):
    """What one result knows beyond that: its parent, its last record, and who is told of the end."""

    __slots__ = ("final", "parent", "told")

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin.app, origin.store, origin.task_name, origin.ignored, origin.is_none)
        self.parent = None
        self.final = None
        self.told = None


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
) -> Iterator[tuple[int, Stored]]:  # fmt: skip
    """The final records of keys as they come, each with its key's place.

    Of very many keys it watches a page at a time, so that waiting takes no more memory than a page does. It goes round:
    what comes meanwhile on another page is seen when that one's turn comes.

    Raises:
        TimeoutError: not all of them came within `timeout` seconds.
        ResultStoreUnavailable: the store is away.
    """
    ends_at = None if timeout is None else clock.monotonic() + timeout
    book = _Book(keys)
    while page := book.next_page():
        turn_ends = None if len(page) == book.left else clock.monotonic() + _TURN
        for key, data in store.get(list(page)).items():
            record = read(app, data)
            if record.state in states.READY_STATES:
                if wait.on_message is not None:
                    wait.on_message(meta_of(message.id_of(key), record))
                yield from book.tick(page, key, record)
        if page:
            yield from _watched(app, store, book, page, (ends_at, turn_ends), wait)


def _watched(
    app: Results, store: ResultStore, book: _Book, page: dict[bytes, list[int]],
    until: tuple[float | None, float | None], wait: Wait,
) -> Iterator[tuple[int, Stored]]:  # fmt: skip
    """What comes of one page, until all of it has or the page's turn is over."""
    ends_at, turn_ends = until
    with store.watch(page) as watch:
        while page:
            now = clock.monotonic()
            left = _LONGEST_WAIT if ends_at is None else max(0.0, ends_at - now)
            pause = min(left, wait.interval if wait.on_interval else _LONGEST_WAIT)
            if turn_ends is not None:
                pause = min(pause, max(0.0, turn_ends - now))
            found = watch.next(pause)
            came: list[tuple[bytes, Stored]] = []
            for key, data in found.items():
                record = read(app, data)
                if wait.on_message is not None:
                    wait.on_message(meta_of(message.id_of(key), record))
                if record.state in states.READY_STATES and key in page:
                    came.append((key, record))
            if len(came) < len(page):
                watch.discard([key for key, _ in came])
            for key, record in came:
                yield from book.tick(page, key, record)
            if not found:
                if wait.on_interval is not None:
                    wait.on_interval()
                if page and left == 0:
                    raise TimeoutError("The operation timed out.")
            if turn_ends is not None and clock.monotonic() >= turn_ends:
                return


class _Book:
    """Which of many keys have not come yet, and whose turn it is. A byte for each."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys
        self._has_come = bytearray(len(keys))
        self._turn = 0
        self.left = len(keys)

    def next_page(self) -> dict[bytes, list[int]]:
        """Keys that have not come, with their places: the next in turn. Empty when all have come."""
        page: dict[bytes, list[int]] = {}
        place, size = self._turn, 0
        while size < min(PAGE, self.left):
            place = self._has_come.find(0, place)
            if place < 0:
                place = 0
                continue
            page.setdefault(self._keys[place], []).append(place)
            size += 1
            place += 1
        self._turn = place
        return page

    def tick(self, page: dict[bytes, list[int]], key: bytes, record: Stored) -> Iterator[tuple[int, Stored]]:
        """One has come: its places, with the record."""
        for place in page.pop(key):
            self._has_come[place] = 1
            self.left -= 1
            yield place, record


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


def cause_of(result: Any, record: Stored) -> Stored:
    """Where a chord's body could not run, the failure of a member of a group before this result, if that was kept."""
    node = result.parent if isinstance(record.result, ChordError) else None
    while node is not None:
        leaves: list[Any] = list(node.leaves()) if hasattr(node, "leaves") else []
        found: list[Stored] = [leaf.final for leaf in leaves if leaf.final is not None]
        if missing := [leaf.key for leaf in leaves if leaf.final is None]:
            found += [read(result.app, data) for data in result.app.backend.get(missing).values()]
        for member in found:
            if member.state in states.PROPAGATE_STATES and not isinstance(member.result, ChordError):
                return member
        node = node.parent
    return record
