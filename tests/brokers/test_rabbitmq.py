"""The RabbitMQ broker keeps the contract, on quorum queues and on classic ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_moving import Moving
from celeriac.testing.broker_room import Room
from tests import rabbitmq

pytestmark = rabbitmq.MARKS


class TestRabbitBroker(BrokerContract, Broadcasts, Moving, Room):
    @pytest.fixture
    def make_broker(self, rabbitmq_place: str) -> Callable[[], Broker]:
        return lambda: connect(rabbitmq_place)


class TestRabbitBrokerOnClassicQueues(BrokerContract, Broadcasts, Moving, Room):
    @pytest.fixture
    def make_broker(self, rabbitmq_classic_place: str) -> Callable[[], Broker]:
        return lambda: connect(rabbitmq_classic_place)
