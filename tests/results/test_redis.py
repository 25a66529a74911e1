"""The Redis result store keeps the contract, alone and in one place with the broker."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from celeriac import Celeriac, brokers, results
from celeriac.brokers.contract import Broker
from celeriac.result import ResultSet
from celeriac.results.contract import ResultStore
from celeriac.stored import Stored
from celeriac.testing import ResultStoreContract, SharedPlaceContract
from tests.servers import PrivateRedis, RedisClient


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


def test_who_waits_needs_one_connection_and_leaves_no_subscription(private_redis: PrivateRedis) -> None:
    answers = Celeriac("proj", broker=private_redis.url, set_as_current=False)
    with Celeriac("proj", broker=private_redis.url) as app, private_redis.client() as client, answers:
        waited = ResultSet([app.AsyncResult(str(number)) for number in range(20)])
        waited[0].ready()
        answers.backend.get([b"x"])
        before, seen = connections(client), list[int]()

        def answer() -> None:
            seen.append(connections(client))
            for result in waited:
                answers.backend.store_record(result.id, Stored("SUCCESS", 1, 1.5))

        soon = threading.Timer(0.1, answer)
        soon.start()
        assert waited.get(timeout=30) == [1] * 20
        soon.join()
        assert seen == [before]
        assert client.call("PUBSUB", "CHANNELS") == []


def connections(client: RedisClient) -> int:
    told = client.call("CLIENT", "LIST")
    return (told if isinstance(told, bytes) else str(told).encode()).count(b" addr=")
