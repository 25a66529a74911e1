"""The memory broker keeps the contract."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract


class TestMemoryBroker(BrokerContract):
    forks = False

    @pytest.fixture
    def make_broker(self) -> Callable[[], Broker]:
        url = f"memory://{uuid.uuid4().hex}"
        return lambda: connect(url)
