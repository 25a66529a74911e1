"""The consumer: takes messages, decides what becomes of each, and hands those that run to the pool.

`admit` is the decision: run it, end it here (unreadable, expired, already decided), or put it back for others
(unknown task). `TaskConsumer.run` is the loop of a child. It holds no timers: what is delayed waits in the broker.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from celeriac import clock, message
from celeriac.brokers.contract import Bury, Consumer, Delivery, PutBack, Release, Settlement
from celeriac.context import Request
from celeriac.events import (
    BUS,
    BrokerBack,
    BrokerLost,
    LeaseWasLost,
    TaskLost,
    TaskReceived,
    TaskUnknown,
    TaskUnreadable,
)
from celeriac.exceptions import DecodeError, LeaseLost, OperationalError, WorkerLostError
from celeriac.message import Message
from celeriac.outcome import Revoked, failed_without_running
from celeriac.pools.contract import Pool
from celeriac.worker import executor, limits
from celeriac.worker.executor import Workbench

#: How long one `take` may wait (seconds). Stopping does not wait for it: `wake` ends it.
_TAKE: Final = 30.0
_LONGEST_PAUSE: Final = 2.0
_SHORTEST_PUT_BACK: Final = 0.25
_LONGEST_PUT_BACK: Final = 5.0
#: How long a worker that has put back an unknown task lets others look first, then and when it is due (seconds).
_COURTESY: Final = 0.05


class TaskConsumer:
    """The loop of one child.

    `run` belongs to the main thread. `stop`, `retire` and `give_back` may be called from any thread: a deque hands
    each waiting delivery to exactly one of them.
    """

    def __init__(
        self,
        bench: Workbench,
        consumer: Consumer,
        pool: Pool,
        *,
        max_tasks: int | None,
        on_owner: Callable[[str], None],
        on_taken: Callable[[], None],
        on_retire: Callable[[str], None],
    ) -> None:
        """`max_tasks`: take so many, then call `on_retire` with the reason and take no more.

        `on_owner` is told the new owner after a lost lease; `on_taken` is called when several messages came at once.
        """
        conf = bench.app.conf
        self._bench = bench
        self._consumer = consumer
        self._pool = pool
        self._left = max_tasks
        self._on_owner = on_owner
        self._on_taken = on_taken
        self._on_retire = on_retire
        self._tasks: Any = bench.app.tasks
        self._accept = frozenset(conf.accept_content)
        self._grace: float = conf.task_unknown_grace
        #: So many crashes behind a message mean that one more makes it a dead letter.
        self._last_chance = max(1, conf.task_max_deliveries - 1)
        self.waiting: deque[Delivery] = deque()
        self.stopping = threading.Event()
        #: Why nothing more is taken; "" while it is. Whoever asks first writes it, the main thread tells it.
        self._retiring = ""
        self._has_told = False
        #: When what holds up `waiting` began (monotonic); 0.0 while none does. Written by the main thread.
        self.busy_since = 0.0
        #: When to let others look first (monotonic): after a put-back at once, and when it is due.
        self._courtesies: deque[float] = deque()
        bench.has_waiting = self.waiting.__len__  # type: ignore[assignment]

    def run(self) -> None:
        """Take and run until told to stop, or until `max_tasks` have been taken."""
        while not self.stopping.is_set():
            if self._retiring and not self._has_told:
                self._has_told = True
                self._on_retire(self._retiring)
            if self.waiting:
                self._hand_over()
            elif self._retiring:
                return
            elif self._pool.free():
                self._bench.settler.flush()
                self._take()
            else:
                self._pool.wait_free(1.0)
        self.give_back()

    def stop(self) -> None:
        """Take nothing more, and hand nothing more over."""
        self.stopping.set()
        self._consumer.wake()

    def retire(self, reason: str) -> None:
        """Take nothing more; what was taken is still run here."""
        self._retiring = self._retiring or reason
        self._consumer.wake()

    def give_back(self) -> None:
        """Everything that waits here for a slot goes back to its queue."""
        releases: list[Settlement] = []
        while self.waiting:
            try:
                releases.append(Settlement(self.waiting.popleft(), Release()))
            except IndexError:  # the main thread was faster
                break
        if releases:
            for release in releases:
                self._bench.settler.add(release)
            self._bench.settler.flush()

    # -- taking -------------------------------------------------------------------------------------------

    def _take(self) -> None:
        limit = self._bench.batch.limit(self._pool.free())
        if self._left is not None:
            limit = min(limit, self._left)
        deliveries = self._take_patiently(limit)
        if self._left is not None:
            self._left -= len(deliveries)
            if self._left == 0:
                self._retiring = self._retiring or "worker_max_tasks_per_child"
        self.waiting.extend(deliveries)
        if len(deliveries) > 1:
            self._on_taken()

    def _take_patiently(self, limit: int) -> list[Delivery]:
        """Messages, or none when told to stop. While the broker is away: tries again, with growing pauses."""
        attempt, lost_at = 0, 0.0
        while not (self.stopping.is_set() or self._retiring):
            try:
                deliveries = self._consumer.take(limit, self._stand_back())
            except LeaseLost:
                BUS.emit(LeaseWasLost(self._consumer.owner))
                self._on_owner(self._consumer.owner)
                continue
            except OperationalError as exc:
                lost_at = lost_at or clock.monotonic()
                pause = clock.backoff(attempt, 0.1, _LONGEST_PAUSE, jitter=True)
                if attempt == 0:
                    BUS.emit(BrokerLost(self._bench.app.broker.place, str(exc), pause))
                attempt += 1
                self.stopping.wait(pause)
                continue
            if attempt:
                BUS.emit(BrokerBack(self._bench.app.broker.place, clock.monotonic() - lost_at))
                attempt = 0
            if deliveries:
                return deliveries
        return []

    def _stand_back(self) -> float:
        """Let others look first where it is time for that; how long the next `take` may wait."""
        while self._courtesies:
            left = self._courtesies[0] - clock.monotonic()
            if left > _COURTESY / 2:
                return min(_TAKE, left - _COURTESY / 2)
            self._courtesies.popleft()
            self.stopping.wait(max(0.0, left + _COURTESY))
        return _TAKE

    def _hand_over(self) -> None:
        if not self._pool.free():
            self.busy_since = self.busy_since or clock.monotonic()
            if not self._pool.wait_free(0.5):
                return
        self.busy_since = 0.0
        try:
            delivery = self.waiting.popleft()
        except IndexError:  # given back a moment ago
            return
        request = self.admit(delivery)
        if request is None:
            if not self.waiting or self._bench.settler.is_due():
                self._bench.settler.flush()
            return
        if self._pool.slots > 1 and delivery.crashes >= self._last_chance:
            self._run_alone(request)
            return
        self.busy_since = clock.monotonic()
        self._pool.submit(partial(executor.execute, request, self._bench))
        self.busy_since = 0.0

    def _run_alone(self, request: Request) -> None:
        """Run what would be a dead letter after one more crash with no neighbour, who might become one with it."""
        while not self._pool.wait_idle(0.5):
            if self.stopping.is_set():
                assert request.delivery is not None
                self._bench.settler.add(Settlement(request.delivery, Release()))
                return
        self._pool.submit(partial(executor.execute, request, self._bench))
        while not self._pool.wait_idle(0.5) and not self.stopping.is_set():
            continue

    # -- deciding -----------------------------------------------------------------------------------------

    def admit(self, delivery: Delivery) -> Request | None:
        """The request of a delivery that is to run. None: its end has been decided and noted."""
        try:
            decoded = message.decode(delivery.data, self._accept)
        except DecodeError as exc:
            self._bury_unreadable(delivery, exc)
            return None
        task = self._tasks.get(decoded.task)
        if task is None:
            self._put_back_unknown(delivery, decoded)
            return None
        request = Request(decoded, delivery, self._bench.hostname)
        request.task_object, request.holder = task, self._consumer
        expires = decoded.options.expires
        if delivery.verdict is not None or (delivery.crashes and task.reject_on_worker_lost is False):
            self._carry_out(delivery.verdict or "worker_lost", request)
        elif expires is not None and expires <= clock.now():
            executor.settle(request, Revoked("expired", expired=True), self._bench, 0.0)
        elif task.acks_late or self._commit(delivery, decoded):
            if BUS.wanted(TaskReceived):
                BUS.emit(TaskReceived(request.id, task.name, delivery.queue))
            return request
        return None

    def _bury_unreadable(self, delivery: Delivery, exc: DecodeError) -> None:
        task_id, name = message.peek(delivery.data)
        self._bench.settler.add(Settlement(delivery, Bury("unreadable", f"{type(exc).__name__}: {exc}")))
        BUS.emit(TaskUnreadable(task_id or "?", name, str(exc)))

    def _put_back_unknown(self, delivery: Delivery, decoded: Message) -> None:
        """Others may know the task: a deploy rolls on. After `task_unknown_grace` seconds it is a dead letter."""
        now = clock.now()
        since = decoded.options.unknown_since or now
        put_back = now - since < self._grace
        if put_back:
            options = msgspec.structs.replace(decoded.options, unknown_since=since)
            data = message.encode(msgspec.structs.replace(decoded, options=options), self._accept)
            # Soon at first, then after as long again as it has waited.
            delay = min(_LONGEST_PUT_BACK, self._grace / 10, max(_SHORTEST_PUT_BACK, now - since))
            self._bench.settler.add(Settlement(delivery, PutBack(data, now + delay)))
            self._courtesies = deque((clock.monotonic(), clock.monotonic() + delay))
        else:
            text = f"no worker of this queue knows the task {decoded.task!r}"
            self._bench.settler.add(Settlement(delivery, Bury("unknown task", text)))
        BUS.emit(TaskUnknown(decoded.id, decoded.task, put_back))

    def _carry_out(self, verdict: str, request: Request) -> None:
        """Settle what was decided elsewhere."""
        kind, _, detail = verdict.partition(":")
        if kind == "time_limit":
            # In threads the supervisor waited a little longer than the limit says.
            _, limit = limits.of(request)
            executor.overran(request, limit or float(detail), self._bench)
            return
        text = (
            f"the process that ran the task died: {detail}"
            if detail
            else "the process that ran the task died"
        )
        outcome = failed_without_running(request.task_object, request, WorkerLostError(text))
        executor.settle(request, outcome, self._bench, 0.0)

    def _commit(self, delivery: Delivery, decoded: Message) -> bool:
        """`acks_late=False`: from here on it must not run again. False: it must not even begin."""
        while not self.stopping.is_set():
            try:
                lost = self._consumer.commit([delivery])
            except OperationalError:
                self.stopping.wait(clock.backoff(0, 0.2, 1.0, jitter=True))
                continue
            if lost:
                BUS.emit(TaskLost(decoded.id, decoded.task))
            return not lost
        self._bench.settler.add(Settlement(delivery, Release()))
        return False
