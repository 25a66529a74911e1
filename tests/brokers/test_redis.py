"""The Redis broker keeps the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_moving import Moving, SearchableMoving
from celeriac.testing.broker_room import Room, SearchableRoom
from celeriac.testing.broker_searching import Searching


class TestRedisBroker(BrokerContract, Broadcasts, Moving, SearchableMoving, Room, SearchableRoom, Searching):
    @pytest.fixture
    def make_broker(self, redis_url: str) -> Callable[[], Broker]:
        return lambda: connect(redis_url)
