"""What the settings say about connections, and what the Redis driver makes of it."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from celeriac import Celeriac, connections, urls
from celeriac.drivers.amqp_address import Address as RabbitAddress
from celeriac.drivers.postgres import Address as PostgresAddress
from celeriac.drivers.redis import Address
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect


def broker(**settings: Any) -> tuple[str, dict[str, Any]]:
    with Celeriac("x", set_as_current=False, **{"broker_url": "redis://one/0", **settings}) as app:
        (place,) = connections.of_broker(app.conf)
        return place


def results(**settings: Any) -> tuple[str, dict[str, Any]]:
    with Celeriac("x", set_as_current=False, **{"broker_url": "redis://one/0", **settings}) as app:
        place = connections.of_results(app.conf)
        assert place is not None
        return place


def address(place: tuple[str, dict[str, Any]]) -> Address:
    return Address(urls.parse(place[0]), place[1])


def test_the_pool_of_the_broker_is_bounded_by_its_setting() -> None:
    assert address(broker()).pool_limit == 10
    assert address(broker(broker_pool_limit=3)).pool_limit == 3
    assert address(broker(broker_pool_limit=None)).pool_limit == 0


def test_transport_options_win() -> None:
    place = broker(broker_pool_limit=3, broker_transport_options={"pool_limit": 4, "socket_timeout": 7})
    assert (address(place).pool_limit, address(place).timeout) == (4, 7.0)


def test_the_store_has_options_of_its_own() -> None:
    found = address(results(
        result_backend="redis://two/1", redis_socket_timeout=8, redis_socket_connect_timeout=3,
        redis_socket_keepalive=False, redis_max_connections=2, redis_client_name="web",
    ))  # fmt: skip
    assert (found.host, found.timeout, found.connect_timeout) == ("two", 8.0, 3.0)
    assert (found.keepalive, found.pool_limit, found.client_name) == (False, 2, "web")


def test_a_store_at_the_broker_has_the_brokers_options() -> None:
    found = address(results(broker_transport_options={"global_keyprefix": "us", "socket_timeout": 30}))
    assert (found.host, found.prefix, found.timeout) == ("one", "us:", 30.0)


@pytest.mark.parametrize("url", ["sqlite:///x.sqlite", "postgresql://one/shop", "redis://one/0"])
@pytest.mark.parametrize("setting", ["broker_transport_options", "result_backend_transport_options"])
def test_options_of_celery_that_do_nothing_are_no_broker_s_error(url: str, setting: str) -> None:
    with (
        Celeriac("x", set_as_current=False, broker_url=url) as app,
        pytest.warns(SettingHasNoEffect, match="visibility_timeout"),
    ):
        setattr(app.conf, setting, {"visibility_timeout": 3600})
        _ = app.broker, app.backend


def test_other_brokers_get_what_they_know() -> None:
    assert broker(broker_url="sqlite:///x.sqlite") == ("sqlite:///x.sqlite", {})
    assert results(broker_url="sqlite:///x.sqlite") == ("sqlite:///x.sqlite", {})


def test_rabbitmq_gets_the_settings_of_brokers_and_keeps_no_results() -> None:
    place = broker(
        broker_url="amqps://me:secret@mq/shop", broker_pool_limit=3, broker_heartbeat=5, broker_connection_timeout=2,
        broker_use_ssl={"cert_reqs": ssl.CERT_NONE},
    )  # fmt: skip
    found = RabbitAddress(urls.parse(place[0]), place[1])
    assert (found.hosts, found.vhost, found.pool_limit) == ([("mq", 5671)], "shop", 3)
    assert (found.heartbeat, found.connect_timeout) == (5, 2.0)
    assert found.tls is not None
    assert found.tls.verify_mode == ssl.CERT_NONE
    with Celeriac("x", set_as_current=False, broker_url="amqp://mq//") as app:
        assert connections.of_results(app.conf) is None


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("//", "/"), ("/shop", "shop"), ("//a", "/a")]
)
def test_a_virtual_host_is_written_as_with_celery(path: str, vhost: str) -> None:
    assert RabbitAddress(urls.parse(f"amqp://mq{path}"), {}).vhost == vhost


def test_without_a_store_there_is_no_place() -> None:
    with Celeriac("x", set_as_current=False, result_backend="disabled://") as app:
        assert connections.of_results(app.conf) is None


@pytest.mark.parametrize(
    ("given", "mode", "checks_name"),
    [
        (True, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": ssl.CERT_REQUIRED}, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": "none"}, ssl.CERT_NONE, False),
        ({"cert_reqs": ssl.CERT_NONE}, ssl.CERT_NONE, False),
        ({"ssl_check_hostname": False}, ssl.CERT_REQUIRED, False),
    ],
)
def test_tls_is_as_the_setting_says(given: Any, mode: ssl.VerifyMode, checks_name: bool) -> None:
    for place in (broker(broker_use_ssl=given), results(broker_use_ssl=given)):
        context = address(place).tls
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (mode, checks_name)
    store = results(result_backend="redis://two", redis_backend_use_ssl=given)
    assert address(store).tls is not None


def test_no_tls_is_no_tls() -> None:
    assert address(broker()).tls is None
    assert address(broker(broker_use_ssl=False)).tls is None
    assert address(results(result_backend="redis://two", broker_use_ssl=True)).tls is None


@pytest.mark.parametrize(("word", "is_on"), [("on", True), ("True", True), ("off", False), ("0", False)])
def test_tls_in_a_url_is_as_the_word_says(word: str, is_on: bool) -> None:
    assert (address(broker(broker_url=f"redis://localhost?ssl={word}")).tls is not None) is is_on


def test_a_word_that_is_neither_true_nor_false_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="'ssl' is true or false, not 'of'"):
        address(broker(broker_url="redis://localhost?ssl=of"))


def test_a_misspelt_tls_option_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'ssl_ca_certs'"):
        broker(broker_use_ssl={"ssl_ca_cert": "/ca.pem"})
    with pytest.raises(ImproperlyConfigured, match="ssl_cert_reqs"):
        broker(broker_use_ssl={"ssl_cert_reqs": "sometimes"})


def test_postgresql_gets_the_settings_in_its_own_words() -> None:
    url = "postgresql://me@one/shop"
    place = broker(broker_url=url, broker_pool_limit=3, broker_transport_options={"schema": "jobs"})
    assert place == results(broker_url=url, broker_pool_limit=3, broker_transport_options={"schema": "jobs"})
    found = PostgresAddress(urls.parse(place[0]), place[1])
    assert (found.pool_limit, found.schema, found.hosts) == (3, "jobs", [("one", 5432)])
    assert broker(broker_url=url, broker_use_ssl=True)[1]["sslmode"] == "require"
    tls = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/me.pem", "ssl_keyfile": "/me.key"}
    options = broker(broker_url=url, broker_use_ssl=tls)[1]
    assert {name: options[name] for name in ("sslmode", "sslrootcert", "sslcert", "sslkey")} == {
        "sslmode": "verify-full", "sslrootcert": "/ca.pem", "sslcert": "/me.pem", "sslkey": "/me.key"
    }  # fmt: skip
    for more, mode in (({"ssl_check_hostname": False}, "verify-ca"), ({"ssl_cert_reqs": "none"}, "require")):
        assert broker(broker_url=url, broker_use_ssl={**tls, **more})[1]["sslmode"] == mode


def places(**settings: Any) -> list[str]:
    with Celeriac("x", set_as_current=False, **settings) as app:
        return [url for url, _ in connections.of_broker(app.conf)]


@pytest.mark.parametrize(
    "given",
    ["redis://one/0;redis://two/0", ["redis://one/0", "redis://two/0"], "redis://one/0; redis://two/0;"],
)
def test_several_brokers_are_a_list_or_a_text(given: Any) -> None:
    assert places(broker_url=given) == ["redis://one/0", "redis://two/0"]
    assert places(broker_url="redis://three/0", broker_write_url=given) == ["redis://one/0", "redis://two/0"]


def test_of_brokers_of_several_kinds_only_their_kinds_are_told() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"several kinds \(redis, postgresql\)") as told:
        places(broker_url=["redis://:hunter2@one/0", "rediss://two/0", "postgresql://me@three/shop"])
    assert "hunter2" not in str(told.value)


def test_with_several_brokers_it_must_be_said_where_results_are() -> None:
    several = ["redis://one/0", "redis://two/0"]
    with pytest.raises(ImproperlyConfigured, match="'result_backend' must say where"):
        results(broker_url=several)
    with pytest.raises(ImproperlyConfigured, match="results are kept in one place"):
        results(broker_url=several, result_backend="redis://one/1;redis://two/1")
    assert results(broker_url=several, result_backend="redis://three/0")[0] == "redis://three/0"


def test_a_broker_whose_messages_cannot_be_moved_is_not_one_of_several() -> None:
    several = {"broker_url": "memory://one;memory://two", "result_backend": "disabled://"}
    with Celeriac("x", set_as_current=False, **several) as app:
        with pytest.raises(ImproperlyConfigured, match="memory:one cannot be one of several"):
            _ = app.broker


def test_one_place_is_not_two_brokers() -> None:
    several = {"broker_url": "redis://one/0;redis://one:6379/0", "result_backend": "disabled://"}
    with Celeriac("x", set_as_current=False, **several) as app:
        with pytest.raises(ImproperlyConfigured, match="gives redis one:6379/0 twice"):
            _ = app.broker
