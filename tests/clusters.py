"""A Redis Cluster of three primaries on loopback, with replicas of those that a test lets fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from celeriac.drivers.redis_cluster import SLOTS, slot_of
from tests.servers import PATIENCE, PrivateRedis, RedisError, until

#: Milliseconds without an answer after which the others hold a node to be down: longer while none is to fail, because
#: they may have to wait for a processor. News takes half of that at the most.
PATIENT, DOWN_AFTER = 8_000, 2_000
PRIMARIES = 3


class Cluster:
    """The nodes. `primaries` and `replicas` are as they were at the start, whoever is what now."""

    def __init__(self, folder: Path, replicas: Mapping[str, int]) -> None:
        """`replicas`: a key, and how many the primary that has it gets."""
        self._all: list[PrivateRedis] = []
        try:
            self.primaries = [self._node(folder / f"primary-{number}") for number in range(PRIMARIES)]
            #: Each with its primary.
            self.replicas = [
                (self._node(folder / f"replica-{slot_of(key)}-{number}"), self.primary_of(key))
                for key, count in replicas.items()
                for number in range(count)
            ]
            self._join()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        """All but one are named: the client finds it by the others."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{one.port}" for one in self.primaries[1:])

    def kill(self) -> None:
        for node in self._all:
            node.kill()

    def primary_of(self, key: str) -> PrivateRedis:
        """Who had this key at the start."""
        return self.primaries[slot_of(key) * PRIMARIES // SLOTS]

    def fail(self, primary: PrivateRedis) -> None:
        """Kill a primary, which the others are to notice soon."""
        for node in self._all:
            with node.client() as client:
                client.call("CONFIG", "SET", "cluster-node-timeout", DOWN_AFTER)
        primary.kill()

    def wait_for_failover(self, lost: PrivateRedis) -> None:
        """Until all who live say that others have all its slots."""
        living = [node for node in self._all if node is not lost]
        until(
            lambda: all(self._is_whole(node, lost.port) for node in living),
            "a replica takes over",
            2 * PATIENCE,
        )

    @contextlib.contextmanager
    def moving(self, key: str) -> Iterator[None]:
        """For the block a key's slot is on its way to another primary, and then all that is in it goes there."""
        slot, source = slot_of(key), self.primary_of(key)
        target = self.primaries[self.primaries.index(source) - 1]
        with source.client() as giving, target.client() as getting:
            names = [giving.call("CLUSTER", "MYID").decode(), getting.call("CLUSTER", "MYID").decode()]
            getting.call("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            giving.call("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            yield
            while keys := giving.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
                giving.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            for client in (getting, giving):
                client.call("CLUSTER", "SETSLOT", slot, "NODE", names[1])

    def _node(self, folder: Path) -> PrivateRedis:
        folder.mkdir()
        made = PrivateRedis(
            folder, "--cluster-node-timeout", str(PATIENT), "--repl-diskless-sync-delay", "0",
            appendonly=True, cluster=True,
        )  # fmt: skip
        self._all.append(made)
        return made

    def _join(self) -> None:
        for number, node in enumerate(self.primaries):
            slots = [slot for slot in range(SLOTS) if slot * PRIMARIES // SLOTS == number]
            with node.client() as client:
                client.call("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
        for number, node in enumerate(self._all):
            with node.client() as client:
                client.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                for other in self._all[:number]:
                    client.call("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        until(lambda: all(map(self._knows_all, self._all)), "the nodes know each other", 2 * PATIENCE)
        for node, primary in self.replicas:
            with primary.client() as client:
                name = client.call("CLUSTER", "MYID").decode()
            with node.client() as client:
                client.call("CLUSTER", "REPLICATE", name)
        until(lambda: all(self._is_whole(node) for node in self._all), "the cluster is whole", 2 * PATIENCE)
        until(lambda: sum(map(self._followers, self.primaries)) == len(self.replicas), "the replicas follow")

    def _knows_all(self, node: PrivateRedis) -> bool:
        with node.client() as client:
            lines = client.call("CLUSTER", "NODES").decode().splitlines()
        return len(lines) == len(self._all) and not any("handshake" in line for line in lines)

    def _is_whole(self, node: PrivateRedis, without: int = 0) -> bool:
        """Whether a node says that all is well, and as many replicas are there, and nobody has that port."""
        with contextlib.suppress(OSError, RedisError), node.client() as client:
            if b"cluster_state:ok" not in client.call("CLUSTER", "INFO"):
                return False
            rows = client.call("CLUSTER", "SLOTS")
            ports = {int(row[2][1]) for row in rows}
            replicas = sum(len(row) - 3 for row in rows)
            return without not in ports and (bool(without) or replicas == len(self.replicas))
        return False

    @staticmethod
    def _followers(node: PrivateRedis) -> int:
        with node.client() as client:
            told: bytes = client.call("INFO", "replication")
        return told.count(b"state=online")


@contextlib.contextmanager
def cluster(folder: Path, replicas: Mapping[str, int] | None = None) -> Iterator[Cluster]:
    """All nodes, until the end of the block."""
    made = Cluster(folder, replicas or {})
    try:
        yield made
    finally:
        made.kill()
