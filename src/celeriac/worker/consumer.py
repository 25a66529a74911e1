"""The consumer: takes messages, decides what becomes of each, and hands those that run to the pool.

`admit` is the decision: run it, end it here (unreadable, expired, already decided), or put it back for others
(unknown task). `TaskConsumer.run` is the loop of a child. It holds no timers: what is delayed waits in the broker.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from celeriac import clock, message
from celeriac.board import Lack
from celeriac.brokers.contract import REVOKED, Ack, Consumer, Delivery, Outgoing, PutBack, Release, Settlement
from celeriac.context import Request
from celeriac.events import (
    BUS,
    BrokerBack,
    BrokerLost,
    LeaseWasLost,
    TaskLost,
    TaskReceived,
    TaskUnknown,
)
from celeriac.exceptions import BackendError, DecodeError, LeaseLost, OperationalError
from celeriac.message import Message
from celeriac.outcome import Revoked
from celeriac.pools.contract import AwaitingPool, Pool, Run
from celeriac.task_modules import ModuleBroken
from celeriac.wire import Broadcast
from celeriac.worker import endings, executor
from celeriac.worker.executor import AwaitedRun, Workbench
from celeriac.worker.order import Order

T = TypeVar("T")

#: How long one `take` may wait (seconds), well below what the supervisor calls stuck. Stopping does not wait for it:
#: `wake` ends it.
_TAKE: Final = 10.0
_LONGEST_PAUSE: Final = 2.0
_SHORTEST_PUT_BACK: Final = 0.25
_LONGEST_PUT_BACK: Final = 5.0
#: How long a worker that has put back an unknown task lets others look first, then and when it is due (seconds).
_COURTESY: Final = 0.05


#: So many of those that were given back last may be found revoked a moment later.
_GIVEN_BACK: Final = 1000


class TaskConsumer:
    """The loop of one child.

    `run` belongs to the main thread. `stop`, `retire`, `give_back` and `end_revoked` may be called from any thread: a
    deque hands each waiting delivery to exactly one of them.
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
        self._board = bench.board
        self._consumer = consumer
        self._pool = pool
        self._awaiting = pool if isinstance(pool, AwaitingPool) else None
        self._left = max_tasks
        self._on_owner = on_owner
        self._on_taken = on_taken
        self._on_retire = on_retire
        self._tasks: Any = bench.app.tasks
        self._accept = frozenset(conf.accept_content)
        self._grace: float = conf.task_unknown_grace
        #: So many crashes behind a message mean that one more makes it a dead letter.
        self._most_crashes = conf.task_max_deliveries
        self._last_chance = max(1, conf.task_max_deliveries - 1)
        #: How queues are looked into; None: as suits the broker.
        self.order: Order | None = None
        #: By name: what comes to these queues goes on to those of all workers.
        self.broadcasts: dict[str, Broadcast] = {}
        self.waiting: deque[Delivery] = deque()
        #: How many came with the last `take`.
        self._taken = 0
        #: How many were given back, time by time: they do not count as taken.
        self._returned: deque[int] = deque()
        self.stopping = threading.Event()
        #: Why nothing more is taken; "" while it is. Whoever asks first writes it, the main thread tells it.
        self._retiring = ""
        self._has_told = False
        #: When what holds up `waiting` began (monotonic); 0.0 while none does. Written by the main thread.
        self.busy_since = 0.0
        #: When to let others look first (monotonic): after a put-back at once, and when it is due.
        self._courtesies: deque[float] = deque()
        #: What went back last, and to which queue. The steward's own, but for the end.
        self._given_back: deque[tuple[bytes, str]] = deque(maxlen=_GIVEN_BACK)
        #: Whether the broker may know of bans that we do not. Set by the steward, too.
        self._is_behind = True
        #: Whether bans were asked for since the last take: a message may have been sent right behind a ban.
        self._has_asked_for_bans = False
        bench.has_waiting = self._has_waiting if self._awaiting else self.waiting.__len__  # type: ignore[assignment]

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
                self._board.come_round(clock.monotonic())
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
                delivery = self.waiting.popleft()
            except IndexError:  # the main thread was faster
                break
            releases.append(Settlement(delivery, Release()))
            self._given_back.append((delivery.key, delivery.queue))
        if releases:
            self._returned.append(len(releases))
            self._bench.batch.cut(self._taken - len(releases))
            for release in releases:
                self._bench.settler.add(release)
            self._bench.settler.flush()

    def fall_behind(self) -> None:
        """Something was revoked that the broker knows more of: it is to be asked before anything else is begun here."""
        self._is_behind = True
        self.give_back()
        self._consumer.wake()

    def end_revoked(self) -> None:
        """What waits here and is revoked ends now, however long the main thread is busy."""
        for delivery in list(self.waiting):
            if delivery.key not in self._bench.revoked:
                continue
            try:
                self.waiting.remove(delivery)
            except (ValueError, IndexError):  # the main thread was faster: it asks as well
                continue
            if self.admit(delivery) is not None:
                self.waiting.appendleft(delivery)
        self._bench.settler.flush()
        for known in [known for known in self._given_back if known[0] in self._bench.revoked]:
            # It was held when the broker was asked, and was on its way back when we were told.
            self._given_back.remove(known)
            with contextlib.suppress(OperationalError, BackendError):
                endings.revoke_again(*known, self._bench)

    # -- taking -------------------------------------------------------------------------------------------

    def _take(self) -> None:
        limit = self._bench.batch.limit(self._pool.free())
        if self._left is not None:
            while self._returned:
                self._left += self._returned.popleft()
            limit = min(limit, self._left)
        deliveries = self._take_patiently(limit)
        if self._left is not None:
            self._left -= len(deliveries)
            if self._left == 0:
                self._retiring = self._retiring or "worker_max_tasks_per_child"
        self._taken = len(deliveries)
        self._has_asked_for_bans = False
        self.waiting.extend(deliveries)
        if deliveries:
            self._bench.batch.weigh(max(len(delivery.data) for delivery in deliveries))
        if len(deliveries) > 1:
            self._on_taken()

    def _take_patiently(self, limit: int) -> list[Delivery]:
        """Messages, or none when told to stop. While the broker is away: tries again, with growing pauses."""
        attempt, lost_at = 0, 0.0
        told: type[OperationalError] | None = None
        while not (self.stopping.is_set() or self._retiring):
            self._board.come_round(clock.monotonic())
            try:
                self._read_bans()
                # Behind a failure it only looks: that the broker is back is to be known at once.
                deliveries = self._look(limit, 0.0 if attempt else self._stand_back())
            except LeaseLost:
                BUS.emit(LeaseWasLost(self._consumer.owner))
                self._on_owner(self._consumer.owner)
                continue
            except OperationalError as exc:
                lost_at = lost_at or clock.monotonic()
                pause = clock.backoff(attempt, 0.1, _LONGEST_PAUSE, jitter=True)
                if told is not type(exc):
                    # Again where a server that was away refuses now: that will not pass by itself.
                    told = type(exc)
                    BUS.emit(BrokerLost(self._bench.app.reader.place, str(exc), pause))
                    self._board.lack(Lack.TAKING, lost_at)
                attempt += 1
                self._board.come_round(clock.monotonic())
                self.stopping.wait(pause)
                continue
            if attempt:
                BUS.emit(BrokerBack(self._bench.app.reader.place, clock.monotonic() - lost_at))
                self._board.lack(Lack.TAKING, 0.0)
                attempt, lost_at, told = 0, 0.0, None
            if deliveries:
                return deliveries
        return []

    def _look(self, limit: int, timeout: float) -> list[Delivery]:
        """One take, of the queue that is next."""
        if self.order is None:
            return self._consumer.take(limit, timeout)
        deliveries = self._consumer.take(limit, timeout, self.order.first())
        if deliveries:
            self.order.gave(deliveries[0].queue, len(deliveries))
        return deliveries

    def _read_bans(self) -> None:
        """Before the first take, and where something was revoked by its stamps."""
        if self._is_behind:
            self._is_behind = False
            try:
                self._bench.revoked.obey(self._consumer.bans())
            except BaseException:
                self._is_behind = True
                raise

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
        run = self.admit(delivery)
        if run is None:
            if not self.waiting or self._bench.settler.is_due():
                self._bench.settler.flush()
            return
        if self._pool.slots > 1 and delivery.crashes >= self._last_chance:
            self._run_alone(delivery, run)
            return
        self.busy_since = clock.monotonic()
        self._submit(run)
        self.busy_since = 0.0

    def _submit(self, run: Run | AwaitedRun) -> None:
        if not isinstance(run, AwaitedRun):
            self._pool.submit(run)
        elif self._awaiting is not None:
            self._awaiting.submit_awaited(run)

    def _has_waiting(self) -> bool:
        return bool(self.waiting) or (self._awaiting is not None and self._awaiting.ending() > 0)

    def _run_alone(self, delivery: Delivery, run: Run | AwaitedRun) -> None:
        """Run what would be a dead letter after one more crash with no neighbour, who might become one with it."""
        while not self._pool.wait_idle(0.5):
            if self.stopping.is_set():
                self._bench.settler.add(Settlement(delivery, Release()))
                return
        self._submit(run)
        while not self._pool.wait_idle(0.5) and not self.stopping.is_set():
            continue

    # -- deciding -----------------------------------------------------------------------------------------

    def admit(self, delivery: Delivery) -> Run | AwaitedRun | None:
        """What is to be done in a slot: run the task, or carry out a verdict. None: its end is decided and noted."""
        try:
            decoded = message.decode(delivery.data, self._accept)
        except DecodeError as exc:
            endings.bury_unreadable(delivery, exc, self._bench)
            return None
        verdict = delivery.verdict
        if verdict is None and self._bench.revoked and self._bench.revoked.take(delivery.key):
            verdict = REVOKED
        if verdict is None and decoded.options.stamps:
            if not self._knows_bans():
                self._bench.settler.add(Settlement(delivery, Release()))
                return None
            if self._bench.revoked.is_banned(decoded.options.stamps):
                verdict = REVOKED
        if verdict is not None and verdict.startswith(REVOKED):
            endings.end_revoked(verdict, delivery, decoded, self._bench)
            return None
        if verdict is None and delivery.queue in self.broadcasts:
            self._give_out(delivery, decoded)
            return None
        task = self._tasks.get(decoded.task)
        if task is None and delivery.crashes > self._most_crashes:
            # It was to be buried before, and that killed a process too: it may be the module that does.
            endings.bury_crashed(delivery, decoded, self._bench)
            return None
        if (task := task or self._import(delivery, decoded)) is None:
            return None
        request = Request(decoded, delivery, self._bench.hostname)
        request.task_object, request.holder = task, self._consumer
        expires = decoded.options.expires
        if verdict is not None or (delivery.crashes and task.reject_on_worker_lost is False):
            return partial(endings.carry_out, verdict or "worker_lost", request, self._bench)
        if expires is not None and expires <= clock.now():
            executor.settle(request, Revoked("expired", expired=True), self._bench, 0.0)
        elif task.acks_late or self._commit(delivery, decoded):
            if BUS.wanted(TaskReceived):
                BUS.emit(TaskReceived(request.id, task.name, delivery.queue, request))
            if self._bench.batch.is_long(task.name) and self.waiting and self._pool.free() == 1:
                # Nothing waits behind it: another child may be idle.
                self.give_back()
            if task.is_async and self._awaiting is not None:
                return AwaitedRun(request, self._bench)
            return partial(executor.execute, request, self._bench)
        return None

    def subscribe(self) -> None:
        """Have copies from now on. Raises: OperationalError"""
        for one in self.broadcasts.values():
            self._bench.app.reader.subscribe(one.name, one.queue, one.keep)

    def _give_out(self, delivery: Delivery, decoded: Message) -> None:
        """A copy for each worker, in one step with the end of the message itself."""
        known = self._patiently(partial(self._bench.app.reader.subscribers, delivery.queue))
        if known is None:
            self._bench.settler.add(Settlement(delivery, Release()))
            return
        queues = sorted({self.broadcasts[delivery.queue].queue, *known})
        options = decoded.options
        copies = [
            Outgoing(queue, delivery.data, options.priority, transient=options.transient) for queue in queues
        ]
        self._bench.settler.add(Settlement(delivery, Ack(), copies))

    def _put_back_unknown(self, delivery: Delivery, decoded: Message) -> None:
        """Others may know the task: a deploy rolls on. After `task_unknown_grace` seconds it is a dead letter."""
        now = clock.now()
        since = decoded.options.unknown_since or now
        if now - since >= self._grace:
            endings.bury_unknown(delivery, decoded, self._bench)
            return
        options = msgspec.structs.replace(decoded.options, unknown_since=since)
        data = message.encode(msgspec.structs.replace(decoded, options=options), self._accept)
        # Soon at first, then after as long again as it has waited.
        delay = min(_LONGEST_PUT_BACK, self._grace / 10, max(_SHORTEST_PUT_BACK, now - since))
        self._bench.settler.add(Settlement(delivery, PutBack(data, now + delay)))
        self._courtesies = deque((clock.monotonic(), clock.monotonic() + delay))
        BUS.emit(TaskUnknown(decoded.id, decoded.task, True, delivery))

    def _import(self, delivery: Delivery, decoded: Message) -> Any:
        """The task, from a module that is imported now. None: there is none, and the message's fate is noted.

        It stands on the board like a run: for what dies of an import must be counted.
        """
        modules, board = self._bench.app.modules, self._board
        board.begin(board.aside, delivery.key, decoded.task.encode(), clock.monotonic(), 0.0, 0.0)
        try:
            task = None if modules is None else modules.task(decoded.task)
        except ModuleBroken as exc:
            endings.bury_unimportable(delivery, decoded, exc, self._bench)
            return None
        finally:
            board.end(board.aside)
            board.come_round(clock.monotonic())
        if task is None:
            self._put_back_unknown(delivery, decoded)
        return task

    def _commit(self, delivery: Delivery, decoded: Message) -> bool:
        """`acks_late=False`: from here on it must not run again. False: it must not even begin."""
        lost = self._patiently(partial(self._consumer.commit, [delivery]))
        if lost is None:
            self._bench.settler.add(Settlement(delivery, Release()))
            return False
        if lost:
            BUS.emit(TaskLost(decoded.id, decoded.task))
        return not lost

    def _knows_bans(self) -> bool:
        """See to it that what was banned before the last take is known here. False: told to stop before it was."""
        if not self._has_asked_for_bans:
            known = self._patiently(self._consumer.bans)
            if known is None:
                return False
            self._bench.revoked.obey(known)
            self._has_asked_for_bans = True
        return True

    def _patiently(self, ask: Callable[[], T]) -> T | None:
        """What `ask` answers, as soon as the broker does. None: told to stop before it did."""
        lost_at = 0.0
        while not self.stopping.is_set():
            try:
                answer = ask()
            except OperationalError:
                now = clock.monotonic()
                lost_at = lost_at or now
                self._board.lack(Lack.TAKING, lost_at)
                self._board.come_round(now)
                self.stopping.wait(clock.backoff(0, 0.2, 1.0, jitter=True))
                continue
            if lost_at:
                self._board.lack(Lack.TAKING, 0.0)
            return answer
        return None
