"""What `memory://name` keeps: one space of this process for each name, shared by broker and result store.

State and one lock only; the verbs are in `brokers/memory.py` and `results/memory.py`. A space does not
cross a fork: what a child sent to its copy would be lost without a word, so it is refused there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    JOIN_TTL,
    Arrival,
    Casualty,
    DeadLetter,
    Join,
    Outgoing,
    Record,
    Revocation,
)
from celeriac.exceptions import CeleriacError, ImproperlyConfigured
from celeriac.urls import Url

#: How many results are stored between two sweeps for expired ones.
PUTS_BETWEEN_SWEEPS = 1000


@dataclass(slots=True, eq=False)
class Entry:
    """A message and what the broker knows of it. `position` orders it among all messages of the space."""

    queue: str
    data: bytes
    priority: int
    position: int
    casualties: tuple[Casualty, ...] = ()
    verdict: str | None = None
    owner: str = ""
    fence: int = 0
    #: Its run has begun and must not be repeated.
    is_committed: bool = False

    @property
    def is_suspect(self) -> bool:
        return bool(self.casualties) or self.verdict is not None


@dataclass(slots=True)
class Lease:
    """An owner's right to its holding in one queue: until when, and how long a renewal lasts."""

    expires_at: float
    lasts: float


@dataclass(slots=True)
class Queue:
    """One queue: ready (a heap for each priority), delayed (a heap), running (by fence), dead (by key)."""

    name: str
    ready: dict[int, list[tuple[int, Entry]]] = field(default_factory=dict[int, list[tuple[int, Entry]]])
    delayed: list[tuple[float, int, Entry]] = field(default_factory=list[tuple[float, int, Entry]])
    running: dict[int, Entry] = field(default_factory=dict[int, Entry])
    dead: dict[bytes, tuple[DeadLetter, Entry]] = field(default_factory=dict[bytes, tuple[DeadLetter, Entry]])
    leases: dict[str, Lease] = field(default_factory=dict[str, Lease])
    #: By key, the oldest first: until when it is remembered, and what.
    revoked: dict[bytes, tuple[float, Revocation]] = field(
        default_factory=dict[bytes, tuple[float, Revocation]]
    )
    was_sent_to: bool = False
    paused: bool = False
    evicted: int = 0
    housekept_at: float | None = None

    def count_ready(self) -> int:
        """How many messages may be taken."""
        return sum(map(len, self.ready.values()))

    def count_waiting(self) -> int:
        """How many wait, ready or delayed."""
        return self.count_ready() + len(self.delayed)

    def oldest(self) -> Entry | None:
        """The message that is ready and has been for longest."""
        heads = (heap[0] for heap in self.ready.values() if heap)
        first = min(heads, default=None, key=lambda head: head[0])
        return None if first is None else first[1]


@dataclass(slots=True, eq=False)
class Mailbox:
    """What somebody was told under some names and has not read yet."""

    names: frozenset[str]
    notices: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])


@dataclass(slots=True)
class StoredRecord:
    """A result, until when, and its place in the order of all puts."""

    data: bytes
    expires_at: float | None
    serial: int


#: Instead of a place: a join was complete when its size was said.
BY_SIZE = -1


@dataclass(slots=True)
class OpenJoin:
    """A join, and what has come to it by place; `completed_by` is the place that came last, or `BY_SIZE`."""

    join: Join
    size: int | None
    expires_at: float
    results: dict[int, bytes] = field(default_factory=dict[int, bytes])
    completed_by: int | None = None

    def due(self) -> Outgoing:
        """Its message, as it is to be sent now."""
        delay = self.join.delay
        return (
            self.join.outgoing
            if delay is None
            else msgspec.structs.replace(self.join.outgoing, due_at=clock.now() + delay)
        )


class Space:
    """Everything under one name. Read and written only while `changed` (a condition on one lock) is held."""

    #: The registry: same name, same space, for as long as the process lives. Guarded by `_opening`.
    _spaces: ClassVar[dict[str, Space]] = {}
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name = name
        self.place = f"memory:{name}"
        self.changed = threading.Condition()
        self.queues: dict[str, Queue] = {}
        self.mailboxes: list[Mailbox] = []
        #: In the order of their serials: a record that is put again moves to the end.
        self.records: dict[bytes, StoredRecord] = {}
        self.joins: dict[bytes, OpenJoin] = {}
        #: What is revoked without being known by its key: until when.
        self.bans: dict[bytes, float] = {}
        #: By broadcast: the queues that have copies, and until when.
        self.subscriptions: dict[str, dict[str, float]] = {}
        self._process = os.getpid()
        self._last_position = 0
        self._last_serial = 0
        self._puts_since_sweep = 0

    @classmethod
    def open(cls, url: Url) -> Space:
        """The space of that URL, made where it is the first time.

        Raises:
            ImproperlyConfigured: the URL has more than a name.
        """
        if url.path.strip("/") or url.port or url.query:
            raise ImproperlyConfigured(f"{url} says more than a name: write 'memory://' or 'memory://name'")
        name = url.host or ""
        with cls._opening:
            return cls._spaces.setdefault(name, cls(name))

    def check_process(self, error: type[CeleriacError]) -> None:
        if os.getpid() != self._process:
            raise error(
                f"memory://{self.name} belongs to the process that opened it, and this is a child of that: "
                "use sqlite:///file, which costs no server either, where there are several processes"
            )

    def next_position(self) -> int:
        self._last_position += 1
        return self._last_position

    @property
    def last_serial(self) -> int:
        return self._last_serial

    def queue(self, name: str) -> Queue:
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = Queue(name)
        return found

    def put(self, records: Sequence[Record]) -> None:
        now = clock.now()
        for record in records:
            self._last_serial += 1
            self.records.pop(record.key, None)
            expires_at = None if record.ttl is None else now + record.ttl
            self.records[record.key] = StoredRecord(record.data, expires_at, self._last_serial)
        self._puts_since_sweep += len(records)
        if self._puts_since_sweep >= PUTS_BETWEEN_SWEEPS:
            self.sweep()
        self.changed.notify_all()

    def open_join(self, join: Join) -> None:
        """From now on results may come to it; nothing where it is open."""
        self.joins.setdefault(join.key, OpenJoin(join, join.size, clock.now() + JOIN_TTL))

    def arrive(self, arrivals: Iterable[Arrival], *, again: bool) -> list[Outgoing]:
        """Note results at their joins. Returns the messages of those that are complete by it; `again`, also of those
        that were complete by it before."""
        due: list[Outgoing] = []
        for arrival in arrivals:
            found = self.joins.get(arrival.join)
            if found is None:
                continue
            found.results.setdefault(arrival.place, arrival.data)
            known = (None, arrival.place) if again else (None,)
            if len(found.results) == found.size and found.completed_by in known:
                found.completed_by = arrival.place
                due.append(found.due())
        return due

    def alive(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        now = clock.now()
        found = ((key, self.records.get(key)) for key in keys)
        return {
            key: record.data
            for key, record in found
            if record is not None and (record.expires_at is None or record.expires_at > now)
        }

    def keys_since(self, serial: int) -> Iterator[bytes]:
        """The keys that were put after that serial, the latest first."""
        for key, record in reversed(self.records.items()):
            if record.serial <= serial:
                return
            yield key

    def sweep(self) -> int:
        self._puts_since_sweep = 0
        now = clock.now()
        expired = [
            key
            for key, record in self.records.items()
            if record.expires_at is not None and record.expires_at <= now
        ]
        for key in expired:
            del self.records[key]
        for key in [key for key, join in self.joins.items() if join.expires_at <= now]:
            del self.joins[key]
        return len(expired)
