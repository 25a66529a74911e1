"""Replies that never arrive: what the server did without our knowing is found out, and nothing is left over."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from celeriac import brokers, urls
from celeriac.brokers.contract import Ack, Broker, Consumer, Outgoing, Settlement
from celeriac.exceptions import BrokerUnavailable
from celeriac.testing.stand import message, names
from tests.chaos.proxy import Network, Proxy

QUEUE = "letters"
SOON = 5.0


@pytest.fixture
def way(redis_server: str) -> Iterator[Proxy]:
    """The network between a consumer and the server."""
    with Network() as network:
        yield network.proxy(urls.parse(redis_server).port or 6379)


@pytest.fixture
def broker(redis_prefix: str, way: Proxy) -> Iterator[Broker]:
    """A broker behind that network, with ten messages."""
    prefix = f"{redis_prefix}-{secrets.token_hex(4)}:"
    made = brokers.connect(f"redis://127.0.0.1:{way.port}/0?prefix={prefix}", {"socket_timeout": 0.3})
    made.send([Outgoing(QUEUE, message(str(n))) for n in range(10)], SOON)
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
    first = consumer.take(2, SOON)
    way.set_mode(mode)
    with pytest.raises(BrokerUnavailable):
        consumer.take(3, 0.0)
    way.set_mode("open")
    rest = consumer.take(4, SOON) + consumer.take(100, SOON)
    assert names(first + rest) == [str(n) for n in range(10)]
    assert consumer.settle([Settlement(one, Ack()) for one in first + rest]) == []
    stats = broker.stats(QUEUE)
    assert (stats.ready, stats.running) == (0, 0)


def test_what_runs_is_not_given_back_with_it(consumer: Consumer, way: Proxy) -> None:
    running = consumer.take(1, SOON)
    way.set_mode("cut")
    with pytest.raises(BrokerUnavailable):
        consumer.take(3, 0.0)
    way.set_mode("open")
    assert names(consumer.take(100, SOON)) == [str(n) for n in range(1, 10)]
    assert consumer.settle([Settlement(running[0], Ack())]) == []
