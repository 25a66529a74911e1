"""The SQLite result store keeps the contract, alone and in one place with the broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac import brokers, results
from celeriac.brokers.contract import Broker
from celeriac.results.contract import ResultStore
from celeriac.testing import ResultStoreContract, SharedPlaceContract


class SQLite:
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/results.sqlite"

    @pytest.fixture
    def make_broker(self, url: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(url)

    @pytest.fixture
    def make_store(self, url: str) -> Callable[[], ResultStore]:
        return lambda: results.connect(url)


class TestSQLiteResults(SQLite, ResultStoreContract):
    pass


class TestSQLiteForBoth(SQLite, SharedPlaceContract):
    pass
