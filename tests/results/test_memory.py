"""The Memory result store keeps the contract, alone and in one place with the broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from celeriac import brokers, results
from celeriac.brokers.contract import Broker
from celeriac.results.contract import ResultStore
from celeriac.testing import ResultStoreContract, SharedPlaceContract


class Memory:
    forks = False

    @pytest.fixture
    def url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"

    @pytest.fixture
    def make_broker(self, url: str) -> Callable[[], Broker]:
        return lambda: brokers.connect(url)

    @pytest.fixture
    def make_store(self, url: str) -> Callable[[], ResultStore]:
        return lambda: results.connect(url)


class TestMemoryResults(Memory, ResultStoreContract):
    pass


class TestMemoryForBoth(Memory, SharedPlaceContract):
    pass
