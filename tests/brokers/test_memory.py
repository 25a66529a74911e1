"""The memory broker keeps the contract."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_room import Room, SearchableRoom
from celeriac.testing.broker_searching import Searching


class TestMemoryBroker(BrokerContract, Broadcasts, Room, SearchableRoom, Searching):
    forks = False

    @pytest.fixture
    def make_broker(self) -> Callable[[], Broker]:
        url = f"memory://{uuid.uuid4().hex}"
        return lambda: connect(url)
