"""The workers of tests/worker, with the tasks of `deeds` besides."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.chaos.proxy import Network
from tests.clusters import Cluster
from tests.servers import PrivateRedis

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))

# What it imports is on the path now.
from tests.guarantees.ground import Ground
from tests.guarantees.outages import Wire

#: The brokers to run on; besides these there is `cluster`.
GROUNDS = os.environ.get("CELERIAC_TEST_GROUNDS", "sqlite redis postgres").split()


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """Where this test sends and runs its own tasks, on each broker."""
    url = f"sqlite:///{tmp_path}/queue.sqlite"
    if request.param == "redis":
        server, prefix = request.getfixturevalue("redis_server"), request.getfixturevalue("redis_prefix")
        url = servers.with_prefix(server, f"{prefix}-{secrets.token_hex(4)}:")
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_place")
    if request.param == "cluster":
        url = request.getfixturevalue("private_cluster").url
    ground = Ground(tmp_path, url)
    yield ground
    ground.close()


@pytest.fixture
def private_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three primaries without replicas."""
    (tmp_path / "nodes").mkdir()
    cluster = Cluster(tmp_path / "nodes", {})
    yield cluster
    cluster.kill()


@pytest.fixture
def sqlite_ground(tmp_path: Path) -> Iterator[Ground]:
    """The same on an SQLite file that this test may do anything to."""
    ground = Ground(tmp_path, f"sqlite:///{tmp_path}/queue.sqlite")
    yield ground
    ground.close()


@pytest.fixture
def private_ground(private_redis: PrivateRedis, tmp_path: Path) -> Iterator[Ground]:
    """The same on a Redis server that this test may do anything to."""
    ground = Ground(tmp_path, private_redis.url)
    yield ground
    ground.close()


@pytest.fixture
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A Redis server of the test's own, and a way to it that can be cut."""
    with Network() as network:
        wire = Wire(tmp_path_factory.mktemp("wire"), network)
        yield wire
        wire.operator.close()
        wire.server.kill()
