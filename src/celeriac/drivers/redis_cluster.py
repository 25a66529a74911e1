"""Redis Cluster: which node has which slot, and connections to the node that has a key.

`redis+cluster://host:6379,other:6379`: some nodes, of which the first that answers tells of all others. What it says is
believed until a node says MOVED or CLUSTERDOWN, or one cannot be reached. See docs/design/0010-redis-cluster.md.
"""

from __future__ import annotations

import binascii
import bisect
import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from celeriac import clock
from celeriac.drivers.redis import Address, Connection, Pool, ServerError
from celeriac.drivers.redis_asking import first_answer
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

PORT: Final = 6379
SLOTS: Final = 16384
#: Seconds after which a call that was sent to the wrong node is sent again: others may have to hear of it as well.
_PAUSE: Final = 0.01

T = TypeVar("T")


def slot_of(key: str | bytes) -> int:
    """The slot of a key: that of what its first braces hold, if it has some."""
    data = key.encode() if isinstance(key, str) else key
    tag = data.partition(b"{")[2].partition(b"}")
    return binascii.crc_hqx(tag[0] if tag[0] and tag[1] else data, 0) % SLOTS


class Cluster:
    """The nodes of one cluster. Safe to use from several threads."""

    def __init__(self, url: Url, query: Mapping[str, Any], address: Address) -> None:
        if url.path.strip("/") not in ("", "0") or str(query.get("db") or 0) != "0":
            raise ImproperlyConfigured(f"{url}: a cluster has one database only, which is 0")
        #: That of the URL, which stands for any node.
        self.address = address
        self._seeds = [(host, port or PORT) for host, port in url.hosts or (("localhost", None),)]
        #: Every primary that was ever told of has one address, and so one pool.
        self._nodes: dict[tuple[str, int], Address] = {}
        #: First slot, last slot and primary of each range, in order; empty where it is not known.
        self._ranges: list[tuple[int, int, Address]] = []

    def __str__(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self._seeds)

    def node_of(self, key: str | bytes, timeout: float) -> Address:
        """The primary that has a key. Raises: OSError: none has, or nobody tells."""
        slot = slot_of(key)
        ranges = self._ranges or self._load(timeout)
        place = bisect.bisect_right(ranges, slot, key=lambda found: found[0]) - 1
        if place >= 0 and slot <= ranges[place][1]:
            return ranges[place][2]
        self.forget()
        raise ConnectionError(f"no node of the cluster has slot {slot}")

    def primaries(self, timeout: float) -> list[Address]:
        """Every primary that has slots. Raises: OSError."""
        return list(dict.fromkeys(node for _, _, node in self._ranges or self._load(timeout)))

    def some_node(self, timeout: float) -> tuple[str, int]:
        """Host and port of some primary. Raises: OSError."""
        node = random.choice(self.primaries(timeout))
        return node.host, node.port

    def forget(self) -> None:
        """What is known may not be so any more."""
        self._ranges = []

    def pool(self) -> ClusterPool:
        return ClusterPool(self)

    def _load(self, timeout: float) -> list[tuple[int, int, Address]]:
        # One that is behind must not be the one that is always asked.
        known = random.sample(list(self._nodes), len(self._nodes))
        places = dict.fromkeys(known + self._seeds)
        try:
            asked, rows = first_answer([self._at(*place) for place in places], timeout, _slots)
        except ConnectionError as exc:
            raise ConnectionError(f"nobody tells of the cluster's nodes: {exc}") from None
        ranges = [
            (int(first), int(last), self._node(host.decode() if host else asked.host, int(port)))
            for first, last, (host, port, *_), *_ in sorted(rows, key=lambda row: row[0])
        ]
        self._ranges = ranges
        return ranges

    def _node(self, host: str, port: int) -> Address:
        return self._nodes.get((host, port)) or self._nodes.setdefault((host, port), self._at(host, port))

    def _at(self, host: str, port: int) -> Address:
        made = copy.copy(self.address)
        made.host, made.port = host, port
        return made


def _slots(connection: Connection) -> list[list[Any]]:
    rows: list[list[Any]] = connection.call("CLUSTER", "SLOTS")
    if not rows:
        raise ConnectionError("it knows of no node that has slots")
    return rows


class ClusterPool:
    """The connections of one process to a cluster: a pool for each of its primaries. As `redis.Pool`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pools: dict[Address, Pool] = {}

    def at(self, key: str | bytes, timeout: float) -> Pool:
        """The pool of the primary that has a key. Raises: OSError."""
        return self._pool(self._cluster.node_of(key, timeout))

    def _pool(self, node: Address) -> Pool:
        return self._pools.get(node) or self._pools.setdefault(node, Pool(node))

    def run(self, key: str | bytes, timeout: float, work: Callable[[Connection], T]) -> T:
        """What a few calls for one key give; once more where it has moved: such a call has done nothing."""
        deadline = clock.monotonic() + timeout
        while True:
            try:
                return self.at(key, timeout).run(key, deadline - clock.monotonic(), work)
            except ServerError as exc:
                if exc.code != "MOVED" or clock.monotonic() + _PAUSE > deadline:
                    raise
                clock.sleep(_PAUSE)

    def run_everywhere(self, timeout: float, work: Callable[[Connection], T]) -> list[T]:
        """What a few calls give at every primary. Raises: OSError, ServerError."""
        nodes = self._cluster.primaries(timeout)
        return [self._pool(node).run("", timeout, work) for node in nodes]

    def close(self) -> None:
        for pool in list(self._pools.values()):
            pool.close()
