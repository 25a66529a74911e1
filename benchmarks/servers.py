"""The servers that systems are compared on: one of each broker, ours alone while it is measured."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from plain_redis import Redis
from rig import private_redis


class Absent(RuntimeError):
    """There is no such server, or it lets nobody have a part of it."""


class Server(Protocol):
    """What keeps the messages of all systems, one system at a time."""

    def url(self, system: str) -> str:
        """As that system writes it."""
        ...

    def clear(self) -> None:
        """Delete everything."""
        ...

    def size(self) -> int:
        """Bytes that it needs for what is in it. Raises: RuntimeError: it does not tell."""
        ...

    def commands(self) -> int:
        """How many it has been given, so far; 0 where it does not count them."""
        ...


class RedisServer:
    """A Redis that keeps nothing when it ends."""

    def __init__(self, port: int) -> None:
        self._url = f"redis://127.0.0.1:{port}/0"
        self._redis = Redis(port)

    def url(self, system: str) -> str:
        return self._url

    def clear(self) -> None:
        self._redis.clear()

    def size(self) -> int:
        return self._redis.memory()

    def commands(self) -> int:
        return self._redis.info("total_commands_processed")

    def close(self) -> None:
        self._redis.close()


class SQLiteFile:
    """A file; Celery writes to it by SQLAlchemy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def url(self, system: str) -> str:
        path = self._folder / system
        path.mkdir(exist_ok=True)
        return f"{'sqla+sqlite' if system == 'celery' else 'sqlite'}:///{path / 'queues.sqlite'}"

    def clear(self) -> None:
        for path in self._files():
            path.unlink(missing_ok=True)

    def size(self) -> int:
        for path in self._folder.glob("*/*.sqlite"):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(path.stat().st_size for path in self._files())

    def commands(self) -> int:
        return 0

    def _files(self) -> list[Path]:
        return [path for path in self._folder.rglob("*") if path.is_file()]


class PostgresDatabase:
    """A database of our own on a server that is there already; Celery writes to it by SQLAlchemy."""

    def __init__(self, server: str, name: str) -> None:
        """Raises: Absent: the server does not answer."""
        import psycopg

        try:
            self._server = psycopg.connect(server, autocommit=True, connect_timeout=3)
        except psycopg.OperationalError as error:
            raise Absent(f"no PostgreSQL at {server}: {error}") from error
        self._name = name
        self._url = f"{server.partition('?')[0].rpartition('/')[0]}/{name}"

    def url(self, system: str) -> str:
        return f"sqla+{self._url.replace('://', '+psycopg://', 1)}" if system == "celery" else self._url

    def clear(self) -> None:
        self.drop()
        self._server.execute(f"CREATE DATABASE {self._name}")

    def drop(self) -> None:
        self._server.execute(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")

    def size(self) -> int:
        row = self._server.execute("SELECT pg_database_size(%s)", [self._name]).fetchone()
        return int(row[0]) if row else 0

    def commands(self) -> int:
        return 0

    def close(self) -> None:
        with self._server:
            self.drop()


class RabbitHost:
    """A virtual host of our own on a server of this machine that is there already."""

    def __init__(self, server: str, name: str) -> None:
        """`server`: its URL without a virtual host. What changes one raises Absent: `rabbitmqctl` cannot be used."""
        self._name = name
        self._url = f"{server.rstrip('/')}/{name}"
        self._user = server.partition("://")[2].partition(":")[0]

    def url(self, system: str) -> str:
        return self._url

    def clear(self) -> None:
        self.drop()
        _rabbitmqctl("add_vhost", self._name)
        _rabbitmqctl("set_permissions", "-p", self._name, self._user, ".*", ".*", ".*")

    def drop(self) -> None:
        if self._name in _rabbitmqctl("list_vhosts").split():
            _rabbitmqctl("delete_vhost", self._name)

    def size(self) -> int:
        raise RuntimeError("RabbitMQ does not tell what its messages weigh")

    def commands(self) -> int:
        return 0


def _rabbitmqctl(*words: str) -> str:
    """Raises: Absent."""
    if shutil.which("rabbitmqctl") is None:
        raise Absent("rabbitmqctl is not installed here")
    done = subprocess.run(["rabbitmqctl", "-q", *words], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Absent(" ".join((done.stderr or done.stdout).split())[:200])
    return done.stdout


@contextmanager
def on_redis() -> Iterator[RedisServer]:
    with private_redis() as port, closing(RedisServer(port)) as server:
        yield server


@contextmanager
def on_sqlite() -> Iterator[SQLiteFile]:
    with tempfile.TemporaryDirectory() as folder:
        yield SQLiteFile(Path(folder))


@contextmanager
def on_postgres(url: str) -> Iterator[PostgresDatabase]:
    with closing(PostgresDatabase(url, f"celeriac_bench_{secrets.token_hex(4)}")) as server:
        yield server


@contextmanager
def on_rabbitmq(url: str) -> Iterator[RabbitHost]:
    server = RabbitHost(url, f"celeriac-bench-{secrets.token_hex(4)}")
    try:
        yield server
    finally:
        server.drop()
