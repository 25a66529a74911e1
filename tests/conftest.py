"""Servers for the tests that need one, and a look at what each test leaves running."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import postgres, rabbitmq, servers
from tests.postgres import PrivatePostgres
from tests.private_rabbitmq import PrivateRabbit
from tests.rabbitmq_clusters import RabbitCluster
from tests.servers import PrivateRedis

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

#: Processes that outlive a test by right: the session's own server.
_of_session: set[int] = set()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: it is bound, so that nobody else gets it, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server that others may use too: write under a prefix only, see `redis_url`."""
    try:
        found = servers.found_redis()
    except RuntimeError as exc:
        pytest.fail(str(exc), pytrace=False)
    if found is not None:
        yield found
        return
    _demand_redis()
    server = PrivateRedis(tmp_path_factory.mktemp("redis"))
    _of_session.add(server.pid)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def redis_prefix(redis_server: str) -> Iterator[str]:
    """What every key of this session begins with, a different one in each process; deleted at its end."""
    prefix = f"celeriac-test-{secrets.token_hex(8)}"
    yield prefix
    servers.delete_prefix(redis_server, prefix)


@pytest.fixture
def redis_url(redis_server: str, redis_prefix: str) -> str:
    """A Redis URL under whose prefix nothing is yet."""
    return servers.with_prefix(redis_server, f"{redis_prefix}-{secrets.token_hex(4)}:")


@pytest.fixture
def make_private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., PrivateRedis]]:
    """Starts Redis servers that a test may do anything to: `make_private_redis("--maxmemory", "2mb")`."""
    made: list[PrivateRedis] = []

    def make(*arguments: str, appendonly: bool = False) -> PrivateRedis:
        _demand_redis()
        directory: Path = tmp_path_factory.mktemp("private-redis")
        made.append(PrivateRedis(directory, *arguments, appendonly=appendonly))
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def private_redis(make_private_redis: Callable[..., PrivateRedis]) -> PrivateRedis:
    """A Redis server of this test's own, which writes every command to disk before it answers."""
    return make_private_redis(appendonly=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server that others may use too: write in schemas of your own, see `postgres_place`."""
    found = postgres.found()
    if found is not None:
        yield found
        return
    _demand_postgres()
    server = PrivatePostgres()
    yield server.url
    server.close()


@pytest.fixture
def make_private_postgres() -> Iterator[Callable[[], PrivatePostgres]]:
    """Starts PostgreSQL servers that a test may do anything to."""
    made: list[PrivatePostgres] = []

    def make() -> PrivatePostgres:
        _demand_postgres()
        made.append(PrivatePostgres())
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def private_postgres(make_private_postgres: Callable[[], PrivatePostgres]) -> PrivatePostgres:
    """A PostgreSQL server of this test's own, which the test may do anything to."""
    return make_private_postgres()


@pytest.fixture(scope="session")
def postgres_schema(postgres_url: str) -> Iterator[str]:
    """The name of a schema of this session, a different one in each process; dropped at its end."""
    name = f"celeriac_test_{secrets.token_hex(6)}"
    yield name
    postgres.drop(postgres_url, name)


@pytest.fixture
def postgres_place(postgres_url: str, postgres_schema: str) -> str:
    """A PostgreSQL URL under which nothing is kept yet."""
    postgres.empty(postgres_url, postgres_schema)
    return postgres.with_schema(postgres_url, postgres_schema)


@pytest.fixture(scope="session")
def postgres_pooler(postgres_url: str) -> Iterator[str]:
    """The URL of the same server through a pooler in transaction mode."""
    if postgres.pooler_program() is None:
        _miss(
            "no pgbouncer is installed: run  make test  or install it (Debian, Ubuntu: apt-get install -y pgbouncer)"
        )
    pooler = postgres.Pooler(postgres_url)
    _of_session.add(pooler.pid)
    yield pooler.url
    pooler.stop()


@pytest.fixture
def postgres_pooled(postgres_place: str, postgres_pooler: str) -> str:
    """`postgres_place`, through the pooler."""
    return f"{postgres_pooler}?{postgres_place.partition('?')[2]}"


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRabbit]:
    """A RabbitMQ server of this session's own, which can be looked into: use virtual hosts of your own."""
    server = PrivateRabbit(tmp_path_factory.mktemp("rabbitmq"))
    _of_session.add(server.pid)
    yield server
    server.close()


@pytest.fixture
def make_private_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], PrivateRabbit]]:
    """Starts RabbitMQ servers that a test may do anything to."""
    made: list[PrivateRabbit] = []

    def make() -> PrivateRabbit:
        if rabbitmq.program() is None:
            _miss(rabbitmq.MISSING)
        made.append(PrivateRabbit(tmp_path_factory.mktemp("private-rabbitmq")))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def rabbitmq_host(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a virtual host of a RabbitMQ server: make queues under a prefix only, see `rabbitmq_place`."""
    try:
        found = rabbitmq.found()
    except RuntimeError as exc:
        pytest.fail(str(exc), pytrace=False)
    if found is None and rabbitmq.program() is None:
        _miss(rabbitmq.MISSING)
    private: PrivateRabbit | None = None if found else request.getfixturevalue("rabbitmq_server")
    with private.virtual_host() if private else rabbitmq.virtual_host(found or "") as url:
        rabbitmq.make_chains(url)
        yield url


@pytest.fixture
def rabbitmq_place(rabbitmq_host: str) -> Iterator[str]:
    """A RabbitMQ URL under which nothing is kept yet."""
    place = rabbitmq.with_prefix(rabbitmq_host, f"celeriac-test-{secrets.token_hex(6)}.", "quorum")
    yield place
    rabbitmq.clear(place)


@pytest.fixture
def rabbitmq_classic_place(rabbitmq_host: str) -> Iterator[str]:
    """The same with classic queues."""
    place = rabbitmq.with_prefix(rabbitmq_host, f"celeriac-test-{secrets.token_hex(6)}.", "classic")
    yield place
    rabbitmq.clear(place)


@pytest.fixture(scope="session")
def rabbitmq_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    """A RabbitMQ cluster of this session's own: see `rabbitmq_cluster`."""
    if rabbitmq.program() is None:
        _miss(rabbitmq.MISSING)
    cluster = RabbitCluster(tmp_path_factory.mktemp("rabbitmq-cluster"))
    _of_session.update(cluster.pids)
    yield cluster
    cluster.close()


@pytest.fixture
def rabbitmq_cluster(rabbitmq_nodes: RabbitCluster) -> Iterator[RabbitCluster]:
    """The same, whose nodes a test may kill: use virtual hosts of your own."""
    yield rabbitmq_nodes
    rabbitmq_nodes.mend()
    _of_session.update(rabbitmq_nodes.pids)


def _demand_postgres() -> None:
    if postgres.program("initdb") is None:
        _miss(postgres.MISSING)


def _demand_redis() -> None:
    if not (shutil.which("redis-server") or shutil.which("valkey-server")):
        _miss(servers.MISSING)


def _miss(what: str) -> None:
    """Without a server: skipped at a desk, a failure where everything must have been tested."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """A test that leaves a child process has not ended what it began: it fails, and the child is ended."""
    before = _children()
    yield
    left = _children() - before - _of_session
    deadline = time.monotonic() + 10.0
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = _children() - before - _of_session
    if left:
        told = ", ".join(f"{pid} ({_command(pid)})" for pid in sorted(left))
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        pytest.fail(f"the test left processes behind: {told}", pytrace=False)


def _children() -> set[int]:
    """The processes that we started and that are not waited for; empty where the system does not tell."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in listing.read_text().split()}
    # Started by the standard library once for all, and ended by it when we end.
    return {pid for pid in found if "multiprocessing.resource_tracker" not in _command(pid)}


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "ended"
