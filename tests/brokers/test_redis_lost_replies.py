"""Replies that never arrive: what the server did without our knowing is found out, and nothing is left over."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from celeriac import brokers, clock, urls
from celeriac.brokers.contract import Ack, Broker, Consumer, Outgoing, Settlement
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing.stand import message, names
from tests import servers
from tests.brokers.lost_answers import taken_past_a_lost_answer
from tests.chaos.proxy import Network, Proxy

QUEUE = "letters"
SOON = 20.0


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so, for some seconds."""
    until = time.monotonic() + SOON
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture
def way(redis_server: str) -> Iterator[Proxy]:
    """The network between a consumer and the server."""
    with Network() as network:
        yield network.proxy(urls.parse(redis_server).port or 6379)


@pytest.fixture
def prefix(redis_prefix: str) -> str:
    """What this test's keys begin with."""
    return f"{redis_prefix}-{secrets.token_hex(4)}:"


@pytest.fixture
def broker(prefix: str, way: Proxy) -> Iterator[Broker]:
    """A broker behind that network, with ten messages."""
    made = brokers.connect(f"redis://127.0.0.1:{way.port}/0?prefix={prefix}", {"socket_timeout": 1.0})
    made.send([Outgoing(QUEUE, message(str(n))) for n in range(10)], SOON)
    yield made
    made.close()


@pytest.fixture
def near(redis_server: str, prefix: str) -> Iterator[Broker]:
    """The same broker, without that network."""
    made = brokers.connect(servers.with_prefix(redis_server, prefix), {})
    yield made
    made.close()


@pytest.fixture
def consumer(broker: Broker, way: Proxy) -> Iterator[Consumer]:
    """One that takes from there."""
    made = broker.consumer([QUEUE], "me", lease=30.0, max_deliveries=3)
    yield made
    way.set_mode("open")
    made.close()


@pytest.mark.parametrize("mode", ["cut", "half-open", "hold"])
def test_what_a_lost_reply_brought_is_taken_again_in_its_order(
    broker: Broker, consumer: Consumer, way: Proxy, mode: str
) -> None:
    taken = taken_past_a_lost_answer(consumer, way, mode)
    assert names(taken) == [str(n) for n in range(10)]
    assert consumer.settle([Settlement(one, Ack()) for one in taken]) == []
    stats = broker.stats(QUEUE)
    assert (stats.ready, stats.running) == (0, 0)


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_wherever_a_look_into_two_queues_breaks_off_nothing_is_kept_from_others(
    broker: Broker, near: Broker, way: Proxy, spare: int
) -> None:
    """Its second reply brings messages; its third belongs to what only tidies up behind it."""
    with closing(broker.consumer(["parcels", QUEUE], "me", lease=30.0, max_deliveries=3)) as consumer:
        first = consumer.take(1, 0.0)
        way.set_mode("cut", spare)
        with pytest.raises(BrokerUnavailable):
            consumer.take(3, 0.0)
        way.set_mode("open")
        # What has come to the other queue meanwhile does not keep it waiting.
        near.send([Outgoing("parcels", message("parcel"))], SOON)
        second = consumer.take(100, SOON)
        third = consumer.take(100, SOON)
        assert names(first) + sorted(names(second + third)) == [*(str(n) for n in range(10)), "parcel"]
        assert names(second) == [str(n) for n in range(1, 10)] or spare == 0
        assert consumer.settle([Settlement(one, Ack()) for one in first + second + third]) == []


def test_what_runs_is_not_given_back_with_it(consumer: Consumer, way: Proxy) -> None:
    running = consumer.take(1, SOON)
    way.set_mode("cut")
    with pytest.raises(BrokerUnavailable):
        consumer.take(3, 0.0)
    way.set_mode("open")
    assert names(consumer.take(100, SOON)) == [str(n) for n in range(1, 10)]
    assert consumer.settle([Settlement(running[0], Ack())]) == []


@pytest.mark.parametrize("delay", [None, 60.0], ids=["ready", "delayed"])
@pytest.mark.parametrize("mode", ["cut", "half-open"])
def test_a_send_whose_answer_was_lost_stores_once_though_it_was_taken_meanwhile(
    broker: Broker, near: Broker, way: Proxy, mode: str, delay: float | None
) -> None:
    broker.send([Outgoing(QUEUE, message("before"))], SOON)
    near.purge(QUEUE)

    def take_it() -> None:
        wait_for(lambda: near.stats(QUEUE).ready + near.stats(QUEUE).delayed)
        near.purge(QUEUE)
        way.set_mode("open")

    way.set_mode(mode)
    taker = threading.Thread(target=take_it)
    taker.start()
    due_at = None if delay is None else clock.now() + delay
    broker.send([Outgoing(QUEUE, message("once"), due_at=due_at)], SOON)
    taker.join()
    stats = near.stats(QUEUE)
    assert (stats.ready, stats.delayed) == (0, 0)


def test_a_bulk_send_that_breaks_off_goes_on_where_it_was(broker: Broker, near: Broker, way: Proxy) -> None:
    near.purge(QUEUE)
    batch = [Outgoing(QUEUE, message(str(n))) for n in range(50_000)]

    def cut() -> None:
        wait_for(lambda: near.stats(QUEUE).ready >= 5_000)
        way.set_mode("cut")
        time.sleep(0.1)
        way.set_mode("open")

    cutter = threading.Thread(target=cut)
    cutter.start()
    broker.send(batch, SOON)
    cutter.join()
    assert near.stats(QUEUE).ready == len(batch)
