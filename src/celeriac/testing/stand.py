"""What the broker suites stand on: messages with names, consumers that are closed, a lease that runs out.

The only waits for time itself are here: a real lease has to end while somebody keeps house, and a real
delay has to pass. Everything else in the suites waits for something to happen.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    CRASHED,
    Ack,
    Action,
    Broker,
    Bury,
    Casualty,
    Consumer,
    Delivery,
    Outgoing,
    QueueStats,
    Settlement,
)  # fmt: skip
from celeriac.message import VERSION, new_key

T = TypeVar("T")

#: A lease that runs out within a test, and one that does not.
SHORT: Final = 0.4
LONG: Final = 60.0
#: How long anything may take that should happen soon, on a busy machine.
SOON: Final = 4.0
PATIENCE: Final = 30.0


def message(name: str, *, age: float = 0.0) -> bytes:
    """The bytes of a message as a broker sees them: version, key, and something; made `age` seconds ago."""
    key = new_key()
    if age:
        key = int((clock.now() - age) * 1000).to_bytes(6, "big") + key[6:]
    return VERSION + key + name.encode()


def name_of(data: bytes) -> str:
    """The name that `message` was given."""
    return data[17:].decode()


def names(deliveries: Iterable[Delivery]) -> list[str]:
    """The names of what was delivered, in order."""
    return [name_of(delivery.data) for delivery in deliveries]


def settle(
    consumer: Consumer, deliveries: Sequence[Delivery], action: Action | None = None
) -> list[Delivery]:
    """End deliveries all in the same way: acknowledged, if nothing else is said."""
    return consumer.settle([Settlement(delivery, action or Ack()) for delivery in deliveries])


def pause(seconds: float) -> None:
    """Let time pass; for leases and delays only, never for something that can be waited for."""
    threading.Event().wait(seconds)


def until(condition: Callable[[], Any], what: str, *, every: float = 0.02) -> None:
    """Wait until the condition holds."""
    deadline = clock.monotonic() + PATIENCE
    while not condition():
        assert clock.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        pause(every)


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What the function returns, and how many seconds it took."""
    began = clock.monotonic()
    result = function()
    return result, clock.monotonic() - began


class Untold(int):
    """A count that the broker cannot tell: no test can hold it against the broker, so it equals what is expected."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Stand:
    """Two connections to one broker, a queue that nobody else uses, and what has to be closed."""

    def __init__(self, make_broker: Callable[[], Broker]) -> None:
        self.broker = make_broker()
        self.other = make_broker()
        self.queue = self.new_queue()
        self._consumers: list[Consumer] = []
        self._threads = ThreadPoolExecutor(16)

    def close(self) -> None:
        self._threads.shutdown()
        for consumer in self._consumers:
            consumer.close()
        self.broker.close()
        self.other.close()

    def new_queue(self) -> str:
        return f"contract-{uuid.uuid4().hex}"

    def send(
        self, *names: str, queue: str | None = None, priority: int = 0, due_in: float | None = None,
        transient: bool = False,
    ) -> list[bytes]:  # fmt: skip
        """Send one message for each name, in one call. Returns their bytes."""
        due_at = None if due_in is None else clock.now() + due_in
        batch = [Outgoing(queue or self.queue, message(name), priority, due_at, transient) for name in names]
        self.broker.send(batch, 10.0)
        return [outgoing.data for outgoing in batch]

    def consumer(
        self, *queues: str, broker: Broker | None = None, lease: float = LONG, max_deliveries: int = 3
    ) -> Consumer:
        """A consumer of the stand's queue, or of those given, under a name of its own."""
        consumer = (broker or self.broker).consumer(
            queues or [self.queue], f"owner-{uuid.uuid4().hex}", lease=lease, max_deliveries=max_deliveries
        )
        self._consumers.append(consumer)
        return consumer

    def drain(self, *queues: str, broker: Broker | None = None, limit: int = 10) -> list[list[Delivery]]:
        """Take and acknowledge everything that is there. Returns the batches as they came."""
        consumer = self.consumer(*queues, broker=broker)
        batches: list[list[Delivery]] = []
        while batch := consumer.take(limit, 0):
            batches.append(batch)
            assert settle(consumer, batch) == []
        consumer.close()
        return batches

    def drained(self, *queues: str, broker: Broker | None = None, limit: int = 10) -> list[str]:
        """The names of everything that was there, in order."""
        return [name for batch in self.drain(*queues, broker=broker, limit=limit) for name in names(batch)]

    def stats(self, queue: str | None = None, *, broker: Broker | None = None) -> QueueStats:
        """What the broker tells; `Untold` for what it cannot."""
        told = (broker or self.broker).stats(queue or self.queue)
        return msgspec.structs.replace(
            told,
            delayed=Untold() if told.delayed is None else told.delayed,
            running=Untold() if told.running is None else told.running,
        )

    def start(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Run a function in another thread."""
        return self._threads.submit(function, *args)

    def while_taking(
        self, consumer: Consumer, action: Callable[[], Any], *, limit: int = 1, timeout: float = 10.0
    ) -> tuple[list[Delivery], float]:
        """What a `take` in another thread returns that waits while the action happens, and how long after it.

        Right either way round: where the thread was slow, the take finds what the action left.
        """
        entered = threading.Event()

        def take() -> list[Delivery]:
            entered.set()
            return consumer.take(limit, timeout)

        future = self.start(take)
        assert entered.wait(PATIENCE)
        pause(0.05)
        action()
        return timed(lambda: future.result(timeout + PATIENCE))

    def expire(
        self, *queues: str, running: int = 0, keep: Sequence[str] = (), max_deliveries: int = 3
    ) -> None:
        """Keep house, renewing nobody but `keep`, until leases have run out and only so many deliveries run.

        House must be kept all the while: where nobody did for half a lease, there is an amnesty. Of a broker that does
        not count what runs, something must have come back.
        """
        named = queues or (self.queue,)
        ready = sum(self.broker.stats(queue).ready for queue in named)

        def done() -> bool:
            self.broker.renew(named, keep, SHORT, max_deliveries)
            stats = [self.broker.stats(queue) for queue in named]
            if None in (counts := [one.running for one in stats]):
                return sum(one.ready for one in stats) > ready
            return sum(filter(None, counts)) <= running

        until(done, "an expired lease is ended", every=SHORT / 8)

    def keep_alive(self, broker: Broker, *owners: str, leases: float = 3.0) -> list[str]:
        """Renew owners for some leases' time. Returns whom `renew` called lost."""
        lost: list[str] = []
        end = clock.monotonic() + leases * SHORT
        while clock.monotonic() < end:
            lost += broker.renew([self.queue], owners, SHORT, 3)
            pause(SHORT / 8)
        return lost

    def crash(self, *, times: int = 1, max_deliveries: int = 3) -> None:
        """Take what comes next and let the process die with it, so many times."""
        from_broker = self.broker
        for _ in range(times):
            victim = self.consumer(max_deliveries=max_deliveries)
            batch = victim.take(1, SOON)
            assert len(batch) == 1
            casualty = casualty_of("signal 9 (SIGKILL)")
            from_broker.surrender([self.queue], victim.owner, {batch[0].key: casualty}, {}, max_deliveries)

    def bury_judged(self) -> Delivery:
        """Bury, as a worker would, the message that comes with the verdict `crashed`. Returns its delivery."""
        consumer = self.consumer()
        [judged] = consumer.take(10, SOON)
        kind, _, detail = (judged.verdict or "").partition(":")
        assert kind == CRASHED
        assert settle(consumer, [judged], Bury(kind, detail)) == []
        consumer.close()
        return judged


def casualty_of(cause: str, worker: str = "worker-1", memory: int | None = None) -> Casualty:
    """A casualty of this moment."""
    return Casualty(cause, clock.now(), worker, memory)
