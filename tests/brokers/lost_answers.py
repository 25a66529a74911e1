"""Takes whose answer is lost on its way, for every broker that is reached over a network."""

from __future__ import annotations

import pytest

from celeriac.brokers.contract import Consumer, Delivery
from celeriac.exceptions import BrokerUnavailable
from tests.chaos.proxy import Proxy

SOON = 5.0


def taken_past_a_lost_answer(consumer: Consumer, way: Proxy, mode: str) -> list[Delivery]:
    """What a consumer takes of its queue in all, while one of its takes, from the third message on, is not answered."""
    first = consumer.take(2, SOON)
    way.set_mode(mode)
    with pytest.raises(BrokerUnavailable):
        consumer.take(3, 0.0)
    way.set_mode("open")
    return first + consumer.take(4, SOON) + consumer.take(100, SOON)
