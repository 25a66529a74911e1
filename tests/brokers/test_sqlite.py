"""The SQLite broker keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Broker
from celeriac.testing import BrokerContract


class TestSQLiteBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self, tmp_path: Path) -> Callable[[], Broker]:
        return lambda: connect(f"sqlite:///{tmp_path}/broker.sqlite")
