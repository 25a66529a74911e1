"""The servers that tests use: found, started, installed, and left as clean as they were.

A Redis server is the one that CELERIAC_TEST_REDIS_URL names, else the one that answers on the standard port,
else a private one that is started for the session. Tests write under key prefixes of their own and delete
only those: a server that others use too loses nothing.

    python -m tests.servers ensure   install what is missing, or say what to (see also `postgres.py`, `rabbitmq.py`)

Speaks to Redis over a bare socket: what tests check should not depend on the driver that they test.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from celeriac import urls
from tests import packages, postgres, rabbitmq
from tests.ports import free_port

URL_VARIABLE = "CELERIAC_TEST_REDIS_URL"
STANDARD_URL = "redis://127.0.0.1:6379/0"
MISSING = (
    "no Redis server: none answers at redis://127.0.0.1:6379 and no redis-server is installed. "
    "Run  make test  or install it (Debian, Ubuntu: apt-get install -y redis-server; "
    f"macOS: brew install redis), or name a server in {URL_VARIABLE}"
)
#: A line of MONITOR for a command that came over a connection; what a script does says `lua` there.
_COMMAND = re.compile(rb'^\+[\d.]+ \[\d+ [\d.]+:(\d+)\] "(\w+)"', re.MULTILINE)
#: A server that has not started or ended by then never will.
PATIENCE = 15.0


class RedisError(Exception):
    """The server answered with an error, or with nonsense."""


class RedisClient:
    """One connection, one command at a time."""

    def __init__(self, url: str, timeout: float = 5.0) -> None:
        parsed = urls.parse(url)
        if parsed.scheme == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            self._socket.connect(parsed.path)
        else:
            host = parsed.host or "127.0.0.1"
            self._socket = socket.create_connection((host, parsed.port or 6379), timeout)
            if parsed.scheme == "rediss":
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        self._stream = self._socket.makefile("rb")
        try:
            if parsed.password is not None:
                self.call("AUTH", *([parsed.username] if parsed.username else []), parsed.password)
            database = parsed.path.strip("/") if parsed.scheme != "unix" else parsed.query.get("db", "")
            if database not in ("", "0"):
                self.call("SELECT", database)
        except BaseException:
            self.close()
            raise

    def call(self, *words: str | bytes | int) -> Any:
        """Run one command. Raises: RedisError, OSError."""
        packed = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._socket.sendall(
            b"*%d\r\n" % len(packed) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in packed)
        )
        return self._reply()

    def _reply(self) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise RedisError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest.decode()
            case b"-":
                raise RedisError(rest.decode(errors="replace"))
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._stream.read(int(rest) + 2)[:-2]
            case b"*":
                return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
            case _:
                raise RedisError(f"not a reply: {line!r}")

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> RedisClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether a server that we can use answers there: Redis 6 or later, without a password we do not know."""
    try:
        with RedisClient(url, timeout) as client:
            info = client.call("INFO", "server").decode()
    except (OSError, RedisError):
        return False
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    return int(fields.get("redis_version", "0").split(".")[0]) >= 6


def found_redis() -> str | None:
    """The URL of a server that is there already, or None.

    Raises:
        RuntimeError: the environment names a server that does not answer; no other is meant.
    """
    if named := os.environ.get(URL_VARIABLE):
        if not answers(named, 5.0):
            raise RuntimeError(f"{URL_VARIABLE}={urls.mask_url(named)}: no Redis (6 or later) answers there")
        return named
    return STANDARD_URL if answers(STANDARD_URL) else None


def with_prefix(url: str, prefix: str) -> str:
    """That URL, for an adapter that writes under `prefix` only."""
    return f"{url}{'&' if '?' in url else '?'}prefix={prefix}"


def delete_prefix(url: str, prefix: str) -> int:
    """Delete the keys that begin with `prefix`, and no others. Returns how many there were."""
    if not prefix.startswith("celeriac-test-") or len(prefix) < 24:
        raise ValueError(f"{prefix!r} is not the prefix of one test session")
    count = 0
    with RedisClient(url) as client:
        cursor: bytes | str = "0"
        while True:
            cursor, keys = client.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
            if keys:
                count += client.call("UNLINK", *keys)
            if cursor == b"0":
                return count


class PrivateRedis:
    """A redis-server of our own, for tests that stop, kill, freeze and start it again. Port and data stay."""

    def __init__(
        self, directory: Path, *arguments: str, appendonly: bool = False, sentinel: Path | None = None,
        cluster: bool = False,
    ) -> None:  # fmt: skip
        """`sentinel`: the configuration of one, which keeps no data and writes what it knows into that file.
        `cluster`: a node, which speaks to others over a second port."""
        self.directory = directory
        self._arguments = arguments
        self._sentinel = () if sentinel is None else (str(sentinel), "--sentinel")
        self._appendonly = appendonly
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        #: Where a node speaks to others. Its default is beyond the ports that a system gives out.
        self.bus_port = 0
        for attempt in range(3):
            self.port = free_port()
            if cluster:
                self.bus_port = free_port()
            try:
                self.start()
            except RuntimeError:
                # Somebody took the port between our asking for it and the server's start.
                if attempt == 2:
                    raise
            else:
                return

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the private redis-server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it, with the data that it had. Returns when it answers."""
        if self._process is not None:
            return
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise FileNotFoundError(MISSING)
        self._process = subprocess.Popen(
            [
                program, *self._sentinel, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
                "--save", "", "--appendonly", "yes" if self._appendonly else "no", "--appendfsync", "always",
                "--daemonize", "no", "--logfile", "redis.log", *self._as_node(), *self._arguments,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                log = self.directory / "redis.log"
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
                raise RuntimeError(f"redis-server did not start on port {self.port}:\n{tail}")
            time.sleep(0.01)

    def _as_node(self) -> list[str]:
        return ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)] if self.bus_port else []

    def stop(self) -> None:
        """Shut it down in order; the data is on disk only with `appendonly`."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End it. Its folder is the caller's."""
        self.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there and does not answer, as over a network that swallows packets."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def client(self) -> RedisClient:
        return RedisClient(self.url)

    def commands(self, seconds: float) -> list[tuple[int, str]]:
        """The commands that clients send within that time, each with the local port it came from."""
        heard, until = b"", time.monotonic() + seconds
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as monitor:
            monitor.sendall(b"MONITOR\r\n")
            while (left := until - time.monotonic()) > 0:
                monitor.settimeout(left)
                try:
                    part = monitor.recv(65536)
                except TimeoutError:
                    break
                if not part:
                    raise ConnectionResetError(f"{self.url} closed the connection that listened to it")
                heard += part
        return [(int(port), name.decode()) for port, name in _COMMAND.findall(heard)]

    def _is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.call("PING") == "PONG")
        except (OSError, RedisError):
            return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until servers are as they should be."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:g} s")
        time.sleep(0.05)


def ensure() -> int:
    """See to it that tests find a Redis server: nothing to do, or install it. Returns an exit status."""
    try:
        if found_redis() or shutil.which("redis-server") or shutil.which("valkey-server"):
            return 0
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    packages.install("redis-server")
    if shutil.which("redis-server") is None:
        print(MISSING, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] != ["ensure"]:
        sys.exit("usage: python -m tests.servers ensure")
    # All are told of, whichever is missing.
    sys.exit(max(ensure(), not postgres.ensure(), not rabbitmq.ensure()))
