"""The table of brokers, and `connect`, which makes one from its URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celeriac import plugins, urls
from celeriac.brokers.contract import Broker

#: URL scheme -> the adapter's class. A third party adds its own by the entry point `celeriac.brokers`.
BROKERS: Final[Mapping[str, str]] = {
    "amqp": "celeriac.brokers.rabbitmq:RabbitBroker",
    "amqps": "celeriac.brokers.rabbitmq:RabbitBroker",
    "memory": "celeriac.brokers.memory:MemoryBroker",
    "postgres": "celeriac.brokers.postgres:PostgresBroker",
    "postgresql": "celeriac.brokers.postgres:PostgresBroker",
    "redis": "celeriac.brokers.redis:RedisBroker",
    "redis+cluster": "celeriac.brokers.redis:RedisBroker",
    "redis+sentinel": "celeriac.brokers.redis:RedisBroker",
    "rediss": "celeriac.brokers.redis:RedisBroker",
    "rediss+cluster": "celeriac.brokers.redis:RedisBroker",
    "rediss+sentinel": "celeriac.brokers.redis:RedisBroker",
    "sentinel": "celeriac.brokers.redis:RedisBroker",
    "sqlite": "celeriac.brokers.sqlite:SQLiteBroker",
    "unix": "celeriac.brokers.redis:RedisBroker",
    "valkey": "celeriac.brokers.redis:RedisBroker",
}


def connect(url: str, options: Mapping[str, Any] | None = None) -> Broker:
    """The broker of that URL. Opens no connection: the first verb does.

    Raises:
        UnknownScheme: no broker goes by that scheme; the nearest right one is named.
        ImproperlyConfigured: the URL cannot be used, or the driver is not installed.
    """
    parsed = urls.parse(url)
    broker: Broker = plugins.find("broker", parsed.scheme, BROKERS)(parsed, options or {})
    return broker
