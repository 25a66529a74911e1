"""The Redis result store in a cluster keeps the contract. It is in no place with a broker."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from celeriac import brokers, results
from celeriac.results.contract import ResultStore
from celeriac.testing import ResultStoreContract
from tests.clusters import Cluster, cluster

#: Its nodes take their time to find each other.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, whom nobody harms."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


class TestRedisClusterResults(ResultStoreContract):
    @pytest.fixture
    def make_store(self, nodes: Cluster) -> Callable[[], ResultStore]:
        prefix = secrets.token_hex(4)
        return lambda: results.connect(f"{nodes.url}?prefix={prefix}")


def test_broker_and_results_are_in_two_places(nodes: Cluster) -> None:
    assert brokers.connect(nodes.url).place != results.connect(nodes.url).place
