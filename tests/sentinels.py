"""A primary, two replicas and three sentinels on loopback, for tests that let the primary fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.servers import PATIENCE, PrivateRedis, until

NAME = "orders"
#: Milliseconds without an answer after which a sentinel holds a server to be down.
DOWN_AFTER = 500


class Sentinels:
    """The servers. `primary` and `replicas` are as they were at the start, whoever is what now."""

    def __init__(self, folder: Path) -> None:
        self.primary = self._server(folder / "primary", "--repl-diskless-sync-delay", "0")
        self._all = [self.primary]
        try:
            self.replicas = [self._replica(folder / f"replica-{number}") for number in range(2)]
            self.watchers = [self._watcher(folder / f"sentinel-{number}") for number in range(3)]
            until(lambda: self._info(self.primary).count(b"state=online") == 2, "the replicas follow")
            until(self._know_each_other, "the sentinels know each other and the replicas")
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.watchers)
        return f"redis+sentinel://{hosts}/{NAME}/0"

    def kill(self) -> None:
        for server in self._all:
            server.kill()

    def wait_for_failover(self) -> None:
        """Until the sentinels name another primary."""
        until(lambda: self._named() not in (None, self.primary.port), "a replica takes over", 2 * PATIENCE)

    def _named(self) -> int | None:
        """The primary's port, where all sentinels agree."""
        ports: set[int] = set()
        for one in self.watchers:
            with one.client() as client:
                ports.add(int(client.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1]))
        return ports.pop() if len(ports) == 1 else None

    def _replica(self, folder: Path) -> PrivateRedis:
        made = self._server(folder, "--replicaof", "127.0.0.1", str(self.primary.port))
        self._all.append(made)
        return made

    def _server(self, folder: Path, *arguments: str) -> PrivateRedis:
        folder.mkdir()
        return PrivateRedis(folder, *arguments, appendonly=True)

    def _watcher(self, folder: Path) -> PrivateRedis:
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {NAME} 127.0.0.1 {self.primary.port} 2\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        made = PrivateRedis(folder, sentinel=config)
        self._all.append(made)
        return made

    def _know_each_other(self) -> bool:
        for one in self.watchers:
            with one.client() as client:
                if len(client.call("SENTINEL", "SENTINELS", NAME)) < 2:
                    return False
                if len(client.call("SENTINEL", "REPLICAS", NAME)) < 2:
                    return False
        return True

    @staticmethod
    def _info(server: PrivateRedis) -> bytes:
        with contextlib.suppress(OSError), server.client() as client:
            found: bytes = client.call("INFO", "replication")
            return found
        return b""


@contextlib.contextmanager
def sentinels(folder: Path) -> Iterator[Sentinels]:
    """All of them, until the end of the block."""
    made = Sentinels(folder)
    try:
        yield made
    finally:
        made.kill()
