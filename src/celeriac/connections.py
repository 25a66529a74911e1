"""What the settings say about connections, as the URL and the options that adapters take.

Pure functions of the settings: nothing here connects. The settings that bear Redis's name, and the ones for TLS, are
for Redis; what `broker_transport_options` and `result_backend_transport_options` say wins over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from celeriac.exceptions import ImproperlyConfigured
from celeriac.plugins import nearest
from celeriac.settings_without_effect import OPTIONS_WITHOUT_EFFECT
from celeriac.urls import split_urls

Place = tuple[str, dict[str, Any]]


class Opened(NamedTuple):
    """A broker or a result store that is open: where it is, and under which settings that was worked out."""

    version: int
    places: Sequence[Place]
    thing: Any


_REDIS: Final = frozenset(
    {
        "redis", "redis+cluster", "redis+sentinel", "rediss", "rediss+cluster", "rediss+sentinel", "sentinel", "unix",
        "valkey",
    }
)  # fmt: skip
_POSTGRES: Final = frozenset({"postgres", "postgresql"})
#: These keep no results.
_AMQP: Final = frozenset({"amqp", "amqps"})
#: `broker_use_ssl` in libpq's words.
_LIBPQ: Final[Mapping[str, str]] = {
    "ssl_ca_certs": "sslrootcert", "ssl_certfile": "sslcert", "ssl_keyfile": "sslkey", "ssl_password": "sslpassword",
}  # fmt: skip
_TLS: Final = (
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_ciphers", "ssl_keyfile", "ssl_password",
)  # fmt: skip
#: What `ssl.CERT_NONE` and its like are, by number and by name.
_CHECKS: Final = ("none", "optional", "required")


def of_broker(conf: Any, *, reading: bool = False) -> Sequence[Place]:
    """Where messages are sent, or taken by workers: one place, or several, the first choice first.

    Raises: ImproperlyConfigured: several that are not of one kind.
    """
    own = conf.broker_read_url if reading else conf.broker_write_url
    urls = _listed(own or conf.broker_url)
    if len(urls) > 1:
        _check_kinds(urls)
    options = _of_brokers_like(urls[0], conf)
    return [(url, options) for url in dict.fromkeys(urls)]


def _listed(urls: str) -> Sequence[str]:
    return split_urls(urls) or (urls,)


def _check_kinds(urls: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(map(_kind, urls)))
    if len(kinds) > 1:
        raise ImproperlyConfigured(
            f"'broker_url' gives brokers of several kinds ({', '.join(kinds)}): what tasks rely on, and "
            "'broker_transport_options', would be others in an outage. Name brokers of one kind"
        )


def _kind(url: str) -> str:
    scheme = _scheme(url)
    if scheme in _AMQP:
        return "rabbitmq"
    return "redis" if scheme in _REDIS else "postgresql" if scheme in _POSTGRES else scheme


def _of_brokers_like(url: str, conf: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if _scheme(url) in _REDIS:
        options = {
            "pool_limit": conf.broker_pool_limit or 0,
            "socket_connect_timeout": conf.broker_connection_timeout,
            **_tls(conf.broker_use_ssl, "broker_use_ssl"),
        }
    elif _scheme(url) in _POSTGRES:
        options = _of_postgres(conf)
    elif _scheme(url) in _AMQP:
        options = {
            "pool_limit": conf.broker_pool_limit or 0,
            "connect_timeout": conf.broker_connection_timeout,
            "heartbeat": conf.broker_heartbeat,
            **_tls(conf.broker_use_ssl, "broker_use_ssl"),
        }
    return options | _transport(conf)


def of_place(conf: Any, what: str) -> Sequence[Place]:
    """Where the `broker`, the `reader` (which workers take from) or the `result store` of an application is."""
    if what == "result store":
        place = of_results(conf)
        return [] if place is None else [place]
    return of_broker(conf, reading=what == "reader")


def of_results(conf: Any) -> Place | None:
    """Where results are kept: at the broker if it can keep them, unless `result_backend` says otherwise; None is
    nowhere."""
    if conf.result_backend is None:
        url, *others = _listed(conf.broker_write_url or conf.broker_url)
        if others:
            raise ImproperlyConfigured(
                "'broker_url' gives several URLs, so 'result_backend' must say where results are kept: one place, "
                "which does not go with a broker, or 'disabled://'"
            )
        if _scheme(url) in _AMQP:
            return None
        tls = _tls(conf.redis_backend_use_ssl or conf.broker_use_ssl, "broker_use_ssl")
        transport = {**_transport(conf), **_with_effect(conf.result_backend_transport_options)}
    elif _scheme(conf.result_backend) in ("disabled", "none"):
        return None
    else:
        url, *others = _listed(conf.result_backend)
        if others:
            raise ImproperlyConfigured("'result_backend' gives several URLs: results are kept in one place")
        tls = _tls(conf.redis_backend_use_ssl, "redis_backend_use_ssl")
        transport = _with_effect(conf.result_backend_transport_options)
    if _scheme(url) in _POSTGRES:
        return url, _of_postgres(conf) | transport
    if _scheme(url) not in _REDIS:
        return url, transport
    given = {
        "pool_limit": conf.redis_max_connections or conf.broker_pool_limit or 0,
        "socket_timeout": conf.redis_socket_timeout,
        "socket_connect_timeout": conf.redis_socket_connect_timeout or conf.redis_socket_timeout,
        "socket_keepalive": conf.redis_socket_keepalive,
        "client_name": conf.redis_client_name,
    }
    return url, {name: value for name, value in given.items() if value is not None} | tls | transport


def _transport(conf: Any) -> dict[str, Any]:
    """The broker's own options: in which order queues are looked into is said to workers."""
    given = _with_effect(conf.broker_transport_options)
    return {name: value for name, value in given.items() if name != "queue_order_strategy"}


def _with_effect(options: Mapping[str, Any]) -> dict[str, Any]:
    """Transport options without those of Celery's that do nothing here, on any server: who gave them was warned."""
    return {name: value for name, value in options.items() if name not in OPTIONS_WITHOUT_EFFECT}


def _of_postgres(conf: Any) -> dict[str, Any]:
    """The settings that bear no server's name, and TLS, for libpq."""
    given = _tls(conf.broker_use_ssl, "broker_use_ssl")
    options: dict[str, Any] = {
        "pool_limit": conf.broker_pool_limit or 0,
        "connect_timeout": conf.broker_connection_timeout,
    }
    if given:
        checks = given.get("ssl_cert_reqs", "required" if "ssl_ca_certs" in given else "none")
        checks_name = checks == "required" and given.get("ssl_check_hostname", True)
        options["sslmode"] = (
            "verify-full" if checks_name else "verify-ca" if checks == "required" else "require"
        )
    return options | {_LIBPQ[name]: value for name, value in given.items() if name in _LIBPQ}


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _tls(given: Any, setting: str) -> dict[str, Any]:
    """`broker_use_ssl` and its like as options: `ssl`, `ssl_ca_certs`... Names without `ssl_` are AMQP's."""
    if not given:
        return {}
    if not isinstance(given, Mapping):
        return {"ssl": True}
    options: dict[str, Any] = {"ssl": True}
    for short, value in cast("Mapping[str, Any]", given).items():
        name = f"ssl_{short.removeprefix('ssl_')}"
        if name not in _TLS:
            raise ImproperlyConfigured(f"{setting!r} knows no {short!r}.{nearest(name, _TLS)}")
        options[name] = _checks(value, setting) if name == "ssl_cert_reqs" else value
    return options


def _checks(value: Any, setting: str) -> str:
    """`ssl.CERT_REQUIRED`, its number, or its name, as a word."""
    if value is None:
        return "none"
    word = str(getattr(value, "name", value)).lower().removeprefix("cert_")
    word = _CHECKS[int(word)] if word in ("0", "1", "2") else word
    if word not in _CHECKS:
        raise ImproperlyConfigured(
            f"'ssl_cert_reqs' of {setting!r} must be 'required', 'optional' or 'none', not {value!r}"
        )
    return word
