"""The Redis broker keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract


class TestRedisBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self, redis_url: str) -> Callable[[], Broker]:
        return lambda: connect(redis_url)
