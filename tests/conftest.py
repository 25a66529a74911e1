"""Servers for the tests that need one, and a look at what each test leaves running."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import postgres, servers
from tests.servers import PrivateRedis

#: Processes that outlive a test by right: the session's own server.
_of_session: set[int] = set()


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
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server that others may use too: for locks and reads."""
    found = postgres.found()
    if found is not None:
        yield found
        return
    if postgres.program("initdb") is None:
        _miss(postgres.MISSING)
    server = postgres.PrivatePostgres(tmp_path_factory.mktemp("postgres"))
    yield server.url
    server.stop()


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
    deadline = time.monotonic() + 2.0
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
