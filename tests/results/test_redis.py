"""The Redis result store keeps the contract, alone and in one place with the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac import brokers, results
from celeriac.brokers.contract import Broker
from celeriac.results.contract import ResultStore
from celeriac.testing import ResultStoreContract, SharedPlaceContract


class Redis:
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def make_broker(self, url: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(url)

    @pytest.fixture
    def make_store(self, url: str) -> Callable[[], ResultStore]:
        return lambda: results.connect(url)


class TestRedisResults(Redis, ResultStoreContract):
    pass


class TestRedisForBoth(Redis, SharedPlaceContract):
    pass
