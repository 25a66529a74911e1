"""What happened, as values, and the one place to tell it.

The flow code emits; logs, signals, metrics and the dashboard listen. A listener
must not raise: if it does, the error is logged and the flow goes on. Where an event would be costly to build on a hot
road, the road asks `BUS.wanted(Class)` first.

Words only: nothing here knows who emits or who listens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


class TaskEvent(Event, frozen=True):
    """Base of what happens to one task. `id` and `task` name it."""

    id: str
    task: str


class TaskSending(TaskEvent, frozen=True):
    """The message is about to be written. Listeners may change its `draft` (see `drafts.Draft`)."""

    queue: str
    draft: Any


class TaskSent(TaskEvent, frozen=True):
    """The broker has stored the message."""

    queue: str
    message: Any


class TaskReceived(TaskEvent, frozen=True):
    """A worker holds the message and has decided to run it."""

    queue: str
    run: Any = None


class TaskStarted(TaskEvent, frozen=True):
    """User code is about to run, in a worker or in its caller. `run` is the request."""

    run: Any


class TaskRan(TaskEvent, frozen=True):
    """User code has ended, and what follows the run is on its way. `outcome`: how it ended (`celeriac.outcome`)."""

    run: Any
    outcome: Any


class TaskSucceeded(TaskEvent, frozen=True):
    """User code returned. `runtime` in seconds."""

    run: Any
    result: Any
    runtime: float


class TaskFailed(TaskEvent, frozen=True):
    """The run ended with an error that will not be retried. `expected`: the class is in the task's `throws`."""

    run: Any
    error: BaseException
    traceback: str
    expected: bool
    runtime: float


class TaskRetried(TaskEvent, frozen=True):
    """The run ended and the task was sent again. `delay` in seconds."""

    run: Any
    reason: BaseException | None
    traceback: str
    delay: float


class TaskRejected(TaskEvent, frozen=True):
    """The message went to the dead letters, or back to its queue."""

    reason: str
    requeued: bool


class TaskIgnored(TaskEvent, frozen=True):
    """The run ended with Ignore."""


class TaskRevoked(TaskEvent, frozen=True):
    """The task will not run: `expired`, or revoked; or its run was `terminated`."""

    reason: str
    expired: bool = False
    terminated: bool = False
    run: Any = None


class TaskUnknown(TaskEvent, frozen=True):
    """No task of that name here; put back for other workers until `grace_until`, then to the dead letters."""

    put_back: bool
    delivery: Any = None


class TaskUnreadable(TaskEvent, frozen=True):
    """A message that cannot be decoded; it went to the dead letters with its bytes."""

    error: str
    exception: BaseException | None = None
    delivery: Any = None


class TaskOverran(TaskEvent, frozen=True):
    """A time limit passed. `hard`: the run was ended; else it was told by SoftTimeLimitExceeded."""

    limit: float
    hard: bool


class TaskBlocksLoop(TaskEvent, frozen=True):
    """In a pool whose runs take turns (gevent): this one has kept all others waiting for `seconds` and goes on. `where`
    it is: file, line and function. `task` is `?` where what runs is none."""

    seconds: float
    where: str


class TaskLost(TaskEvent, frozen=True):
    """The lease had ended before the run did: another worker has the message, and this run's end was refused."""


class HookFailed(TaskEvent, frozen=True):
    """A hook of a task (`on_success`, ...) raised; the outcome of the run stands."""

    hook: str
    traceback: str


class TaskStateNotStored(TaskEvent, frozen=True):
    """A state on the way (STARTED, or what `progress` tells) could not be stored; the run goes on."""

    state: str
    error: str


class WorkerStarting(Event, frozen=True):
    """The supervisor is up; no child yet."""

    worker: str


class WorkerReady(Event, frozen=True):
    """All children are up for the first time."""

    worker: str


class WorkerScaled(Event, frozen=True):
    """The worker wants another number of processes (`--autoscale`). `backlog`: messages that waited."""

    worker: str
    before: int
    processes: int
    backlog: int


class WorkerStopping(Event, frozen=True):
    """An orderly stop has begun. `reason` is text for people."""

    worker: str
    reason: str


class WorkerStopped(Event, frozen=True):
    """The supervisor is about to exit with this code."""

    worker: str
    code: int


class ChildReady(Event, frozen=True):
    """A child takes messages."""

    number: int
    pid: int


class ChildDraining(Event, frozen=True):
    """A child has heard that it is to stop: it takes nothing more, and gives back what waits in it."""


class ChildImported(Event, frozen=True):
    """A task module has been imported, since a message for a task of its has come. `seconds`: how long that took."""

    module: str
    seconds: float


class ChildImportFailed(Event, frozen=True):
    """A task module cannot be imported; messages for its tasks become dead letters."""

    module: str
    traceback: str


class ChildRecycled(Event, frozen=True):
    """A child has been told to finish because of its age, its memory or its count of tasks."""

    number: int
    pid: int
    reason: str


class ChildDied(Event, frozen=True):
    """A child ended without being told to. `cause`: `signal 9 (SIGKILL)`, `exit code 3`."""

    number: int
    pid: int
    cause: str
    tasks: tuple[str, ...] = ()


class BrokerLost(Event, frozen=True):
    """The broker does not answer. `delay`: seconds until the next attempt."""

    place: str
    error: str
    delay: float


class BrokerCaution(Event, frozen=True):
    """Something about the broker, or a list of brokers, is set up such that messages may be lost or left, as a worker
    finds when it starts or moves messages. `text`: what, and what to do about it."""

    place: str
    text: str


class BrokerBack(Event, frozen=True):
    """The broker answers again, after `away` seconds."""

    place: str
    away: float


class BrokerChanged(Event, frozen=True):
    """The worker takes from another broker of its list from now on, because of the `reason`."""

    old: str
    new: str
    reason: str


class MessagesMoved(Event, frozen=True):
    """What was sent to another broker of the list, where the worker does not take, was moved to where it does."""

    queue: str
    count: int
    source: str
    target: str


class LeaseWasLost(Event, frozen=True):
    """A child's lease ended while it lived (it was paused or cut off); it goes on under a new owner."""

    owner: str


class DeadLettersEvicted(Event, frozen=True):
    """Dead letters were deleted for good, for their `reason`: `age` (`task_dead_letter_expires`) or `count`
    (`task_dead_letter_max`). `oldest` is the id of the first of them."""

    queue: str
    count: int
    reason: str
    oldest: str


class CopiesForgotten(Event, frozen=True):
    """A worker was away for so long that its `queue` was deleted, with its copies of what was sent to `broadcast`."""

    broadcast: str
    queue: str


Listener = Callable[[Any], None]


class Bus:
    """Who listens to which class of events. Listeners are added at start-up; emitting takes no lock."""

    def __init__(self) -> None:
        self._listeners: dict[type[Event], tuple[Listener, ...]] = {}
        #: `wanted(Class)`: whether anybody listens to this class.
        self.wanted: Callable[[type[Event]], bool] = self._listeners.__contains__

    def listen(self, kind: type[Event], listener: Listener) -> None:
        """Call `listener` with every event of exactly this class from now on."""
        self._listeners[kind] = (*self._listeners.get(kind, ()), listener)

    def forget(self, kind: type[Event], listener: Listener) -> None:
        """Undo `listen`; no error if it was not listening."""
        rest = tuple(known for known in self._listeners.get(kind, ()) if known != listener)
        if rest:
            self._listeners[kind] = rest
        else:
            self._listeners.pop(kind, None)

    def emit(self, event: Event) -> None:
        """Tell the listeners of the event's class."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception:  # a listener must not break the flow
                logging.getLogger("celeriac.events").exception(
                    "a listener of %s failed", type(event).__name__
                )


#: The process's one bus: a registry, filled at start-up.
BUS: Final = Bus()
emit: Final = BUS.emit
