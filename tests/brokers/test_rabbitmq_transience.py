"""Transient messages at a RabbitMQ server that is restarted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from celeriac import brokers
from celeriac.brokers.contract import Bury, Delivery, Outgoing, Release
from celeriac.message import Message, Options, encode, new_key
from celeriac.testing.stand import settle
from tests.private_rabbitmq import PrivateRabbit
from tests.rabbitmq import with_prefix

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(240)]
SOON = 20.0


def outgoing(*, transient: bool) -> Outgoing:
    data = encode(Message(new_key(), "ping", options=Options(transient=transient)))
    return Outgoing("pings", data, transient=transient)


def test_a_restart_takes_transient_messages_from_classic_queues_alone(
    make_private_rabbit: Callable[[], PrivateRabbit],
) -> None:
    server = make_private_rabbit()
    sent = {kind: prepare(with_prefix(server.url, f"{kind}.", kind)) for kind in ("classic", "quorum")}
    server.stop()
    server.start()
    for kind, (dies, others) in sent.items():
        kept = [one.data for one in others if kind == "quorum" or not one.transient]
        with closing(brokers.connect(with_prefix(server.url, f"{kind}.", kind))) as broker:
            with closing(broker.consumer(["pings"], "second", lease=60.0, max_deliveries=3)) as consumer:
                left = consumer.take(4, SOON)
                while len(left) < len(kept):
                    left += consumer.take(4, SOON)
                assert [one.data for one in left] == kept
                assert settle(consumer, left) == []
                assert consumer.take(4, 0.0) == []
            assert [letter.data for letter in broker.dead("pings")] == [one.data for one in dies]


def prepare(place: str) -> tuple[list[Outgoing], list[Outgoing]]:
    """What is dead, and what waits, the first of it given back: a transient and a durable one of each."""
    dies, comes_back, waits = ([outgoing(transient=which) for which in (True, False)] for _ in range(3))
    with closing(brokers.connect(place)) as broker:
        with closing(broker.consumer(["pings"], "first", lease=60.0, max_deliveries=3)) as consumer:
            broker.send([*dies, *comes_back], SOON)
            taken: list[Delivery] = []
            while len(taken) < 4:
                taken += consumer.take(4, SOON)
            assert settle(consumer, taken[:2], Bury("for a test")) == []
            assert settle(consumer, taken[2:], Release()) == []
        broker.send(waits, SOON)
    return dies, [*comes_back, *waits]
