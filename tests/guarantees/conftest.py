"""The workers of tests/worker, with the tasks of `deeds` besides."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.chaos.proxy import Network
from tests.clusters import Cluster
from tests.private_rabbitmq import PrivateRabbit

sys.path.insert(0, str(Path(__file__).parents[1] / "worker"))

# What it imports is on the path now.
from tests.guarantees.ground import Ground, RabbitGround, Server
from tests.guarantees.outages import Wire
from tests.guarantees.rabbitmq_outages import RabbitWire

#: The brokers to run on; besides these there are `cluster` and `rabbitmq`.
GROUNDS = os.environ.get("CELERIAC_TEST_GROUNDS", "sqlite redis postgres").split()
#: Those with a server that a test may do anything to.
SERVERS = [name for name in ("redis", "rabbitmq") if name in GROUNDS] or ["redis"]


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """Where this test sends and runs its own tasks, on each broker."""
    if request.param == "rabbitmq":
        server: PrivateRabbit = request.getfixturevalue("rabbitmq_server")
        with server.virtual_host() as url, contextlib.closing(RabbitGround(tmp_path, server, url)) as ground:
            yield ground
        return
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


@pytest.fixture(params=SERVERS)
def private_server(request: pytest.FixtureRequest) -> Server:
    """A server that this test may do anything to, of each broker that is one."""
    if request.param == "redis":
        return request.getfixturevalue("private_redis")
    make: Callable[[], PrivateRabbit] = request.getfixturevalue("make_private_rabbit")
    return make()


@pytest.fixture
def private_ground(private_server: Server, tmp_path: Path) -> Iterator[Ground]:
    """The same as `ground`, on that server."""
    if isinstance(private_server, PrivateRabbit):
        ground: Ground = RabbitGround(tmp_path, private_server, private_server.url)
    else:
        ground = Ground(tmp_path, private_server.url)
    yield ground
    ground.close()


@pytest.fixture
def wire(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wire | RabbitWire]:
    """A server that a test may do anything to, and a way to it that can be cut: of Redis, unless it says otherwise."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        if getattr(request, "param", "redis") == "rabbitmq":
            server: PrivateRabbit = request.getfixturevalue("rabbitmq_server")
            url = stack.enter_context(server.virtual_host())
            yield stack.enter_context(contextlib.closing(RabbitWire(server, url, network)))
        else:
            yield stack.enter_context(contextlib.closing(Wire(tmp_path_factory.mktemp("wire"), network)))
