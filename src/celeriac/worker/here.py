"""What the worker of `start_worker` knows, seen from the test beside it.

`Here` is told which worker that is, and has live views of it under Celery's names; `worker/state.py` shows them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from celeriac import message
from celeriac.context import Request
from celeriac.events import BUS, TaskRan
from celeriac.exceptions import DecodeError
from celeriac.outcome import Success
from celeriac.worker.main import Parts

#: So many tasks that succeeded last are remembered.
_MOST: Final = 1000

T = TypeVar("T")


class Table(Mapping[str, T]):
    """A mapping as it is now, each time that it is looked at."""

    def __init__(self, now: Callable[[], Mapping[str, T]]) -> None:
        self._now = now

    def __getitem__(self, key: str) -> T:
        return self._now()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())


class Several(Sequence[T]):
    """Things as they are now, each time that they are looked at."""

    def __init__(self, now: Callable[[], Sequence[T]]) -> None:
        self._now = now

    def __getitem__(self, index: Any) -> Any:
        found: Any = self._now()
        return found[index]

    def __len__(self) -> int:
        return len(self._now())


class Bans(Table[Collection[str]]):
    """The stamps that the worker knows to be revoked, with their values."""

    def __init__(self, now: Callable[[], Mapping[str, Collection[str]]], forget: Callable[[], None]) -> None:
        super().__init__(now)
        self._forget = forget

    def clear(self) -> None:
        """Have this worker obey them no more, even where one is repeated. The broker and other workers know them."""
        self._forget()


class Here:
    """The worker of this process. Without one there is nothing to be seen."""

    def __init__(self) -> None:
        self._parts: Parts | None = None
        self._succeeded: dict[str, None] = {}
        self.total_count = Table(self._counts)
        self.all_total_count = Several(lambda: [sum(self._counts().values())])
        self.active_requests = Several(self._active)
        self.reserved_requests = Several(lambda: [*self._active(), *self._waiting()])
        self.requests = Table(lambda: {str(one.id): one for one in self.reserved_requests})
        self.successful_requests = Several(self._successful)
        self.revoked = Several(self._revoked)
        self.revoked_stamps = Bans(self._banned, self._forget)

    def enter(self, parts: Parts) -> None:
        """This is the worker from now on."""
        self._parts = parts
        self._succeeded.clear()
        BUS.listen(TaskRan, self._note)

    def leave(self, parts: Parts) -> None:
        """This worker has ended."""
        BUS.forget(TaskRan, self._note)
        if self._parts is parts:
            self._parts = None

    def _note(self, ran: TaskRan) -> None:
        if type(ran.outcome) is Success:
            self._succeeded[ran.id] = None
            while len(self._succeeded) > _MOST:
                self._succeeded.pop(next(iter(self._succeeded)), None)

    def _successful(self) -> list[str]:
        found = list(self._succeeded)
        if self._parts is None:
            return []
        # Whoever finds one here may ask for its result next.
        self._parts.bench.settler.finish()
        return found

    def _counts(self) -> Counter[str]:
        return Counter() if self._parts is None else Counter(self._parts.bench.counts)

    def _active(self) -> list[Request]:
        return [] if self._parts is None else list(self._parts.bench.runs.values())

    def _waiting(self) -> list[Request]:
        if self._parts is None:
            return []
        bench, found = self._parts.bench, list[Request]()
        for delivery in self._parts.task_consumer.waiting.copy():
            with contextlib.suppress(DecodeError):
                decoded = message.decode(delivery.data, bench.app.conf.accept_content)
                found.append(Request(decoded, delivery, bench.hostname))
        return found

    def _revoked(self) -> list[str]:
        known = [] if self._parts is None else self._parts.bench.revoked.known()
        return [message.id_of(key) for key in known]

    def _banned(self) -> Mapping[str, Collection[str]]:
        return {} if self._parts is None else self._parts.bench.revoked.banned

    def _forget(self) -> None:
        if self._parts is not None:
            self._parts.bench.revoked.waive()


#: The process's one: empty unless `start_worker` runs a worker here.
HERE: Final = Here()
total_count: Final = HERE.total_count
all_total_count: Final = HERE.all_total_count
active_requests: Final = HERE.active_requests
reserved_requests: Final = HERE.reserved_requests
requests: Final = HERE.requests
successful_requests: Final = HERE.successful_requests
revoked: Final = HERE.revoked
revoked_stamps: Final = HERE.revoked_stamps
