"""The RabbitMQ broker keeps the contract, on quorum queues and on classic ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract

pytestmark = pytest.mark.rabbitmq


class TestRabbitBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self, rabbitmq_place: str) -> Callable[[], Broker]:
        return lambda: connect(rabbitmq_place)


class TestRabbitBrokerOnClassicQueues(BrokerContract):
    @pytest.fixture
    def make_broker(self, rabbitmq_classic_place: str) -> Callable[[], Broker]:
        return lambda: connect(rabbitmq_classic_place)
