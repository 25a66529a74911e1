"""The SQLite broker keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract
from celeriac.testing.broker_broadcasts import Broadcasts
from celeriac.testing.broker_moving import Moving, SearchableMoving
from celeriac.testing.broker_room import Room, SearchableRoom
from celeriac.testing.broker_searching import Searching


class TestSQLiteBroker(BrokerContract, Broadcasts, Moving, SearchableMoving, Room, SearchableRoom, Searching):
    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> Callable[[], Broker]:
        return lambda: connect(f"sqlite:///{tmp_path}/broker.sqlite")
