"""The private Redis server of the tests does what fault tests ask of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests import servers
from tests.servers import PrivateRedis, RedisError


def test_it_keeps_its_port_and_its_data_over_a_crash(private_redis: PrivateRedis) -> None:
    with private_redis.client() as client:
        client.call("SET", "key", b"\r\n\x00")
    url, pid = private_redis.url, private_redis.pid
    private_redis.kill()
    assert not servers.answers(url)
    private_redis.start()
    assert (private_redis.url, private_redis.pid == pid) == (url, False)
    with private_redis.client() as client:
        assert client.call("GET", "key") == b"\r\n\x00"


def test_it_can_be_frozen(private_redis: PrivateRedis) -> None:
    with private_redis.frozen():
        assert not servers.answers(private_redis.url, 0.1)
    assert servers.answers(private_redis.url)


def test_it_takes_arguments(make_private_redis: Callable[..., PrivateRedis]) -> None:
    server = make_private_redis("--maxmemory", "900kb")
    with server.client() as client, pytest.raises(RedisError, match="OOM"):
        client.call("SET", "key", "value")
    server.stop()
    server.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


def test_only_keys_of_one_test_session_are_deleted(private_redis: PrivateRedis) -> None:
    mine = f"celeriac-test-{os.urandom(8).hex()}"
    with private_redis.client() as client:
        for key in (f"{mine}:a", f"{mine}-b", "celeriac-test-other", "precious"):
            client.call("SET", key, 1)
        assert servers.delete_prefix(private_redis.url, mine) == 2
        assert sorted(client.call("KEYS", "*")) == [b"celeriac-test-other", b"precious"]
    for wide in ("", "celeriac-test-", "*", "precious"):
        with pytest.raises(ValueError, match="not the prefix"):
            servers.delete_prefix(private_redis.url, wide)


def test_a_server_that_the_environment_names_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.URL_VARIABLE, "redis://:hunter2@127.0.0.1:1/0")
    with pytest.raises(RuntimeError, match="CELERIAC_TEST_REDIS_URL") as caught:
        servers.found_redis()
    assert "hunter2" not in str(caught.value)
    assert servers.ensure() == 1
