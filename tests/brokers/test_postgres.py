"""The PostgreSQL broker keeps the contract."""

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


class TestPostgresBroker(
    BrokerContract, Broadcasts, Moving, SearchableMoving, Room, SearchableRoom, Searching
):
    @pytest.fixture
    def make_broker(self, postgres_place: str) -> Callable[[], Broker]:
        return lambda: connect(postgres_place)


class TestPostgresBrokerBehindAPooler(BrokerContract, Searching, Moving, SearchableMoving):
    #: Nothing wakes them there: each looks again after a second at the latest.
    woken_within = 1.5

    @pytest.fixture
    def make_broker(self, postgres_pooled: str) -> Callable[[], Broker]:
        return lambda: connect(postgres_pooled)
