"""The PostgreSQL result store keeps the contract, alone and in one place with the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac import brokers, results
from celeriac.brokers.contract import Broker
from celeriac.results.contract import ResultStore
from celeriac.testing import ResultStoreContract, SharedPlaceContract


class Postgres:
    @pytest.fixture
    def make_broker(self, postgres_place: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(postgres_place)

    @pytest.fixture
    def make_store(self, postgres_place: str) -> Callable[[], ResultStore]:
        return lambda: results.connect(postgres_place)


class TestPostgresResults(Postgres, ResultStoreContract):
    pass


class TestPostgresForBoth(Postgres, SharedPlaceContract):
    pass


class Pooled:
    @pytest.fixture
    def make_broker(self, postgres_pooled: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(postgres_pooled)

    @pytest.fixture
    def make_store(self, postgres_pooled: str) -> Callable[[], ResultStore]:
        return lambda: results.connect(postgres_pooled)


class TestPostgresResultsBehindAPooler(Pooled, ResultStoreContract):
    pass


class TestPostgresForBothBehindAPooler(Pooled, SharedPlaceContract):
    pass
