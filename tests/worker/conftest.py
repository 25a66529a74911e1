"""Sites on every broker: one of a test's own, and one whose worker serves many tests."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Site
from tests import postgres, rabbitmq, servers
from tests.private_rabbitmq import PrivateRabbit

#: The brokers that every test of behaviour runs on.
BROKERS = ("sqlite", "redis", "postgres")
#: One that some of them run on.
RABBITMQ = pytest.param("rabbitmq", marks=rabbitmq.MARKS)
#: Settings of the worker that many tests share, and of those who send to it.
SHARED = {"accept_content": ["msgpack", "json", "yaml", "pickle"]}


def _url(name: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if name == "sqlite":
        return f"sqlite:///{folder}/queue.sqlite"
    if name == "postgres":
        server, schema = request.getfixturevalue("postgres_url"), f"celeriac_test_{secrets.token_hex(6)}"
        request.addfinalizer(lambda: postgres.drop(server, schema))
        return postgres.with_schema(server, schema)
    if name == "rabbitmq":
        server, prefix = request.getfixturevalue("rabbitmq_host"), f"celeriac-test-{secrets.token_hex(6)}."
        place = rabbitmq.with_prefix(server, prefix, "quorum")
        request.addfinalizer(lambda: rabbitmq.clear(place))
        return place
    server, prefix = request.getfixturevalue("redis_server"), request.getfixturevalue("redis_prefix")
    return servers.with_prefix(server, f"{prefix}-{secrets.token_hex(4)}:")


@pytest.fixture
def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The URL of a new place on a broker of that kind."""

    def make(kind: str) -> str:
        folder = tmp_path / secrets.token_hex(4)
        folder.mkdir()
        return _url(kind, request, folder)

    return make


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site of this test's own, on each broker; its workers are the test's to start."""
    site = Site(tmp_path, _url(request.param, request, tmp_path))
    yield site
    site.close()


@pytest.fixture(params=[*BROKERS, RABBITMQ])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """The same on RabbitMQ too, whose results are in a file."""
    settings = rabbitmq.settings(tmp_path) if request.param == "rabbitmq" else {}
    site = Site(tmp_path, _url(request.param, request, tmp_path), **settings)
    yield site
    site.close()


@pytest.fixture(params=["quorum", "classic"])
def private_rabbit(
    request: pytest.FixtureRequest, rabbitmq_server: PrivateRabbit, tmp_path: Path
) -> Iterator[Site]:
    """A site on a RabbitMQ server that this test may do anything to, in a virtual host of its own."""
    with rabbitmq_server.virtual_host() as url:
        place = rabbitmq.with_prefix(url, "celeriac.", request.param)
        site = Site(tmp_path, place, **rabbitmq.settings(tmp_path))
        yield site
        site.close()


@pytest.fixture
def sqlite_site(tmp_path: Path) -> Iterator[Site]:
    """A site of this test's own, for what does not depend on the broker."""
    site = Site(tmp_path, f"sqlite:///{tmp_path}/queue.sqlite")
    yield site
    site.close()


@pytest.fixture(scope="session", params=BROKERS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one worker (prefork, two children) that many tests use, one at a time: they leave it as it is."""
    folder = tmp_path_factory.mktemp("shared")
    site = Site(folder, _url(request.param, request, folder), **SHARED)
    site.worker("-c", "2", "-Q", "celery,letters")
    yield site
    site.close()
