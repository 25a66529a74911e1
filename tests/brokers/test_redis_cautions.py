"""What a Redis server is set up to delete by itself is known to its operator before it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac import brokers, urls
from tests.servers import PrivateRedis


@pytest.mark.parametrize(
    ("limit", "policy", "lost"),
    [
        ("100mb", "noeviction", None),
        ("0", "allkeys-lru", None),
        ("100mb", "allkeys-lfu", "deletes messages, leases and results"),
        ("100mb", "volatile-ttl", "deletes results before their time"),
    ],
)
def test_a_policy_that_deletes_is_told_of(
    make_private_redis: Callable[..., PrivateRedis], limit: str, policy: str, lost: str | None
):
    server = make_private_redis("--maxmemory", limit, "--maxmemory-policy", policy)
    broker = brokers.connect(server.url)
    told = broker.cautions()
    assert len(told) == (lost is not None)
    assert all(policy in text and lost in text for text in told if lost)
    broker.close()


def test_a_server_that_keeps_it_to_itself_earns_none(make_private_redis: Callable[..., PrivateRedis]):
    server = make_private_redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with server.client() as client:
        client.call("ACL", "SETUSER", "worker", "on", ">word", "~*", "&*", "+@all", "-info")
    broker = brokers.connect(f"redis://worker:word@127.0.0.1:{urls.parse(server.url).port}/0")
    assert broker.cautions() == []
    broker.close()
