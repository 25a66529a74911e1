"""What a RabbitMQ server does of what a broker must: rates, and the claims that docs/design/0009 stands on.

python benchmarks/rabbitmq_broker.py URL [--classic] [--rates] [--claims] [--delays]
    (a virtual host of its own: queues are made there and deleted)
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from amqp_wire import GET_EMPTY, GET_OK, Amqp, Refused

BODY = b"\x01" + bytes(16) + b"x" * 80
#: Levels of the chain of delays: the longest delay is 2**LEVELS - 1 units of `UNIT` milliseconds.
LEVELS, UNIT = 14, 10


class Bench:
    """A server, the kind of queue that is made there, and a name that nobody else uses."""

    def __init__(self, url: str, kind: str) -> None:
        self.url = url
        self.kind = kind
        self._prefix = f"celeriac-bench-{secrets.token_hex(4)}"

    def connect(self, heartbeat: int = 0) -> Amqp:
        return Amqp(self.url, heartbeat)

    @contextmanager
    def queues(self, count: int = 2, **arguments: str | int | bool) -> Iterator[list[str]]:
        admin = self.connect()
        names = [f"{self._prefix}-{secrets.token_hex(3)}" for _ in range(count)]
        for name in names:
            admin.declare(name, x_queue_type=self.kind, **arguments)
        try:
            yield names
        finally:
            for name in names:
                admin.delete(name)
            admin.close()

    def ready(self, queue: str, **arguments: str | int | bool) -> int:
        connection = self.connect()
        ready, _ = connection.declare(queue, passive=True, x_queue_type=self.kind, **arguments)
        connection.close()
        return ready

    def fill(self, queue: str, count: int, body: Callable[[int], bytes] = lambda _: BODY) -> None:
        connection = self.connect()
        connection.confirm_select()
        for start in range(0, count, 1000):
            stop = min(start + 1000, count)
            for number in range(start, stop):
                connection.publish("", queue, body(number))
            connection.wait_confirmed(stop)
        connection.close()


def rate(what: str, count: int, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"{what:52}{count / (time.perf_counter() - began):10,.0f} /s", flush=True)


# -- rates ------------------------------------------------------------------------------------------------------


def send(bench: Bench, queue: str, count: int, size: int) -> None:
    connection = bench.connect()
    connection.confirm_select()
    for stop in range(size, count + 1, size):
        for _ in range(size):
            connection.publish("", queue, BODY)
        connection.wait_confirmed(stop)
    connection.close()


def take_plain(bench: Bench, queue: str, count: int, size: int) -> None:
    """The acknowledgement alone is the lease."""
    connection = bench.connect()
    connection.prefetch(max(2, size))
    connection.consume(queue)
    for _ in range(0, count, size):
        batch = connection.wait_messages(size)
        connection.ack(batch[-1].tag, multiple=True)
    connection.prefetch(1)  # an answer: what was acknowledged is acknowledged
    connection.close()


def take_asked(bench: Bench, queue: str, count: int, size: int) -> None:
    """Without a standing consumer: `basic.get`, as many at once as are wanted."""
    connection = bench.connect()
    for _ in range(0, count, size):
        for _ in range(size):
            connection.get(queue)
        for _ in range(size):
            connection.wait(GET_OK, GET_EMPTY)
        while connection.messages:
            connection.ack(connection.messages.popleft().tag)
    connection.prefetch(1)
    connection.close()


def take_held(
    bench: Bench, ready: str, holding: str, count: int, size: int, follow: str | None = None
) -> None:
    """From the queue into the owner's holding in one transaction, settled from there in another; all on one channel."""
    owner = bench.connect()
    owner.prefetch(2 * size)
    owner.consume(holding, tag="holding")
    owner.prefetch(max(2, size))
    owner.consume(ready, tag="ready")
    owner.tx_select()
    for _ in range(0, count, size):
        for message in owner.wait_messages_of("ready", size):
            owner.publish("", holding, message.body)
            owner.ack(message.tag)
        owner.commit()
        for message in owner.wait_messages_of("holding", size):
            if follow is not None:
                owner.publish("", follow, message.body)
            owner.ack(message.tag)
        owner.commit()
    owner.close()


def rates(bench: Bench) -> None:
    with bench.queues(2) as [ready, other], bench.queues(1, x_single_active_consumer=True) as [holding]:
        rate("send, confirmed, one at a time", 1_000, lambda: send(bench, ready, 1_000, 1))
        rate("send, confirmed, batches of 100", 20_000, lambda: send(bench, ready, 20_000, 100))
        rate("consume and acknowledge, one at a time", 1_000, lambda: take_plain(bench, ready, 1_000, 1))
        rate("consume and acknowledge, batches of 100", 10_000, lambda: take_plain(bench, ready, 10_000, 100))
        rate("get and acknowledge, one at a time", 1_000, lambda: take_asked(bench, ready, 1_000, 1))
        rate("get and acknowledge, batches of 100", 5_000, lambda: take_asked(bench, ready, 5_000, 100))
        bench.fill(ready, 25_000)
        rate(
            "into a holding and settled, one at a time", 500, lambda: take_held(bench, ready, holding, 500, 1)
        )
        rate(
            "into a holding and settled, batches of 10",
            5_000,
            lambda: take_held(bench, ready, holding, 5_000, 10),
        )
        rate(
            "into a holding and settled, batches of 100",
            10_000,
            lambda: take_held(bench, ready, holding, 10_000, 100),
        )
        rate(
            "the same with a follow-up each",
            5_000,
            lambda: take_held(bench, ready, holding, 5_000, 100, follow=other),
        )
    with bench.queues(1) as [name]:
        admin = bench.connect()
        extra = [f"{name}-{number}" for number in range(50)]
        rate(
            "make an empty queue", 50, lambda: [admin.declare(one, x_queue_type=bench.kind) for one in extra]
        )
        rate("delete it", 50, lambda: [admin.delete(one) for one in extra])
        admin.close()


# -- claims -----------------------------------------------------------------------------------------------------


def is_fenced(bench: Bench) -> bool:
    """An acknowledgement that is not ours voids the transaction: nothing of it is sent."""
    with bench.queues(2) as [first, second]:
        bench.fill(first, 1)
        late = bench.connect()
        late.tx_select()
        late.consume(first)
        [message] = late.wait_messages(1)
        late.publish("", second, b"never")
        late.ack(message.tag)
        late.ack(message.tag + 7)
        try:
            late.commit()
        except Refused:
            late.close()
            time.sleep(0.3)
            return (bench.ready(first), bench.ready(second)) == (1, 0)
        return False


def survives_a_missing_target(bench: Bench) -> bool:
    """Whether a message is still there after a transaction that should have moved it to a queue that is gone."""
    with bench.queues(1) as [source]:
        bench.fill(source, 1)
        taking = bench.connect()
        taking.tx_select()
        taking.consume(source)
        [message] = taking.wait_messages(1)
        taking.publish("", f"{source}-gone", message.body, mandatory=True)
        taking.ack(message.tag)
        taking.commit()
        taking.close()
        time.sleep(0.3)
        return bench.ready(source) == 1


def move(url: str, source: str, target: str, way: str) -> None:
    """Move messages to and fro until somebody kills this process: each batch as one transaction, or confirmed first."""
    connection = Amqp(url)
    if way == "transaction":
        connection.tx_select()
    else:
        connection.confirm_select()
    sent = 0
    connection.prefetch(20)
    connection.consume(source, tag="source")
    connection.consume(target, tag="target")
    while True:
        [message] = connection.wait_messages(1)
        batch = [message, *connection.messages]
        connection.messages.clear()
        for one in batch:
            connection.publish("", random.choice([source, target]), one.body)
        if way != "transaction":
            sent += len(batch)
            connection.wait_confirmed(sent)
        for one in batch:
            connection.ack(one.tag)
        if way == "transaction":
            connection.commit()


def killed_movers(bench: Bench, way: str, rounds: int = 30, count: int = 200) -> tuple[int, int]:
    """How many messages are lost, and how many are double, when processes die on the way so many times."""
    with bench.queues(2) as [source, target]:
        bench.fill(source, count, lambda number: b"%d" % number)
        for _ in range(rounds):
            movers = [_self("move", bench.url, source, target, way) for _ in range(2)]
            for mover in movers:
                assert mover.stdout is not None
                mover.stdout.readline()
            time.sleep(random.uniform(0.05, 0.4))
            for mover in movers:
                mover.kill()
                mover.wait()
        time.sleep(1.0)
        total = bench.ready(source) + bench.ready(target)
        reader = bench.connect()
        reader.prefetch(0)
        reader.consume(source, tag="source")
        reader.consume(target, tag="target")
        bodies = [message.body for message in reader.wait_messages(total)]
        reader.close()
        return count - len(set(bodies)), len(bodies) - len(set(bodies))


def hold(url: str, queue: str, heartbeat: str) -> None:
    """Hold what is in a queue and do nothing, until somebody ends this process."""
    connection = Amqp(url, int(heartbeat))
    connection.prefetch(0)
    connection.consume(queue)
    connection.wait_messages(10)
    print("held", flush=True)
    signal.pause()


def heir_gets_it_after(bench: Bench, number: int, heartbeat: int) -> float:
    """Seconds from a signal to the holder until the one who stands behind it in the holding has its messages."""
    with bench.queues(1, x_single_active_consumer=True) as [holding]:
        bench.fill(holding, 10)
        holder = _self("hold", bench.url, holding, str(heartbeat))
        assert holder.stdout is not None
        while holder.stdout.readline() != b"held\n":
            pass
        heir = bench.connect()
        heir.prefetch(0)
        heir.consume(holding)
        began = time.perf_counter()
        holder.send_signal(number)
        batch = heir.wait_messages(10)
        seconds = time.perf_counter() - began
        holder.kill()
        holder.wait()
        if not all(message.redelivered for message in batch):
            raise AssertionError("the heir was given what was never held")
        heir.close()
        return seconds


def is_one_active(bench: Bench, exclusive: bool) -> bool:
    """Whether a second consumer gets nothing of a holding while the first one is there."""
    arguments: dict[str, bool] = {} if exclusive else {"x_single_active_consumer": True}
    with bench.queues(1, **arguments) as [holding]:
        first, second = bench.connect(), bench.connect()
        first.prefetch(1)
        first.consume(holding, exclusive=exclusive)
        bench.fill(holding, 3)
        first.wait_messages(1)
        try:
            second.prefetch(10)
            second.consume(holding, exclusive=exclusive)
            second.prefetch(10)
        except Refused:
            return True
        time.sleep(0.2)
        second.prefetch(10)
        return not second.messages


def releases_keep_order(bench: Bench, count: int, *, asked: bool) -> bool:
    """Whether messages come again in their order of which all but two were taken, by `basic.get` or by a consumer."""
    with bench.queues(1) as [queue]:
        bench.fill(queue, count, lambda number: b"%d" % number)
        connection = bench.connect()
        if asked:
            for _ in range(count - 2):
                connection.get(queue)
                connection.wait(GET_OK)
        else:
            connection.prefetch(count - 2)
            connection.consume(queue)
            connection.wait_messages(count - 2)
        connection.close()
        again = bench.connect()
        again.prefetch(0)
        again.consume(queue)
        bodies = [message.body for message in again.wait_messages(count)]
        again.close()
        return bodies == [b"%d" % number for number in range(count)]


def claims(bench: Bench) -> None:
    print(f"a foreign acknowledgement voids the transaction: {is_fenced(bench)}", flush=True)
    print(
        f"a message outlives its move to a queue that is gone: {survives_a_missing_target(bench)}", flush=True
    )
    for way in ("transaction", "confirmation, then acknowledgement"):
        lost, double = killed_movers(bench, way)
        print(
            f"200 messages moved by 60 processes that were killed, by {way}: {lost} lost, {double} double",
            flush=True,
        )
    print(f"one consumer at a time, by `exclusive`: {is_one_active(bench, exclusive=True)}", flush=True)
    print(f"one consumer at a time, by `x-single-active-consumer`: {is_one_active(bench, exclusive=False)}")
    waits = [heir_gets_it_after(bench, signal.SIGKILL, 0) for _ in range(10)]
    print(f"a holder killed, its heir has the messages: {statistics.median(waits) * 1e3:.1f} ms", flush=True)
    stopped = heir_gets_it_after(bench, signal.SIGSTOP, 2)
    print(f"a holder stopped, heartbeat 2 s, its heir has the messages: {stopped:.1f} s", flush=True)
    for asked, count in ((False, 5), (False, 500), (True, 5), (True, 100)):
        kept = releases_keep_order(bench, count, asked=asked)
        way = "`basic.get`" if asked else "a consumer"
        print(f"{count} messages of {way}, given back by the end of its connection, keep their order: {kept}")


# -- delays -----------------------------------------------------------------------------------------------------


@contextmanager
def chain(bench: Bench) -> Iterator[str]:
    """Queues that keep a message for 1, 2, 4, ... units each, one behind the other. Yields their names' prefix."""
    admin = bench.connect()
    prefix = f"celeriac-delay-{secrets.token_hex(4)}"
    names = [f"{prefix}-{level}" for level in range(LEVELS)]
    out = f"{prefix}-out"
    for exchange in (out, *names):
        admin.exchange(exchange, "topic")
    for level, name in enumerate(names):
        below = names[level - 1] if level else out
        safely: dict[str, str | int | bool] = {}
        if bench.kind == "quorum":
            safely = {"x_dead_letter_strategy": "at-least-once", "x_overflow": "reject-publish"}
        admin.declare(
            name, x_queue_type=bench.kind, x_message_ttl=UNIT << level, x_dead_letter_exchange=below, **safely
        )
        above = "*." * (LEVELS - 1 - level)
        admin.bind(name, name, f"{above}1.#")
        admin.bind_exchange(below, name, f"{above}0.#")
    try:
        yield prefix
    finally:
        for name in names:
            admin.delete(name)
            admin.delete_exchange(name)
        admin.delete_exchange(out)
        admin.close()


def key_of(seconds: float, queue: str) -> str:
    units = round(seconds * 1000 / UNIT)
    return ".".join(format(units, f"0{LEVELS}b")) + "." + queue


def delays(bench: Bench, count: int = 2_000, longest: float = 20.0) -> None:
    """How late messages are that go through a chain of delays."""
    with chain(bench) as prefix, bench.queues(1) as [queue]:
        admin, receiver = bench.connect(), bench.connect()
        admin.bind(queue, f"{prefix}-out", f"#.{queue}")
        receiver.prefetch(0)
        receiver.consume(queue)
        late: list[float] = []

        def receive() -> None:
            for _ in range(count):
                [message] = receiver.wait_messages(1)
                late.append(time.time() - float(message.body))

        receiving = threading.Thread(target=receive)
        receiving.start()
        admin.confirm_select()
        for number in range(count):
            seconds = random.uniform(0.0, longest)
            due_at = time.time() + round(seconds * 1000 / UNIT) * UNIT / 1000
            admin.publish(f"{prefix}-{LEVELS - 1}", key_of(seconds, queue), repr(due_at).encode())
            admin.wait_confirmed(number + 1)
        receiving.join(longest + 60.0)
        late.sort()
        print(
            f"{len(late):,} of {count:,} delayed by up to {longest:g} s over {LEVELS} levels: late by "
            f"{statistics.median(late) * 1e3:.0f} ms in the median, {late[int(len(late) * 0.99)] * 1e3:.0f} ms at "
            f"99 %, {late[-1] * 1e3:.0f} ms at most; earliest {late[0] * 1e3:.1f} ms",
            flush=True,
        )
        admin.close()
        receiver.close()


def outlasts_its_time(bench: Bench) -> None:
    """Hold a message beyond the server's `consumer_timeout`, and settle it over a channel that is made then.

    The server looks once a minute; for a server whose `consumer_timeout` is some seconds.
    """
    with bench.queues(1, x_single_active_consumer=True) as [holding]:
        bench.fill(holding, 1)
        holder = bench.connect()
        holder.consume(holding)
        holder.wait_messages(1)
        began = time.perf_counter()
        try:
            holder.wait()
        except (Refused, TimeoutError) as exc:
            print(f"after {time.perf_counter() - began:.0f} s of holding: {exc}", flush=True)
        again = bench.connect()
        again.consume(holding)
        [message] = again.wait_messages(1)
        again.tx_select()
        again.ack(message.tag)
        again.commit()
        print(f"held again by its owner (redelivered: {message.redelivered}) and settled", flush=True)
        again.close()


def _self(*arguments: str) -> subprocess.Popen[bytes]:
    """This program, as a process that is to die. It writes a line when it has begun."""
    return subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--as", *arguments], stdout=subprocess.PIPE
    )


def main() -> None:
    if sys.argv[1:2] == ["--as"]:
        print("here", flush=True)
        {"move": move, "hold": hold}[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--classic", action="store_true", help="classic queues instead of quorum queues")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    args = parser.parse_args()
    bench = Bench(args.url, "classic" if args.classic else "quorum")
    named = [part for part in PARTS if getattr(args, part)]
    for part in named or ["rates", "claims", "delays"]:
        PARTS[part](bench)


PARTS = {"rates": rates, "claims": claims, "delays": delays, "timeout": outlasts_its_time}

if __name__ == "__main__":
    main()
