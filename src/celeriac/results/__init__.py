"""The table of result stores, and `connect`, which makes one from its URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celeriac import plugins, urls
from celeriac.results.contract import ResultStore

#: URL scheme -> the adapter's class. A third party adds its own by the entry point `celeriac.result_stores`.
RESULTS: Final[Mapping[str, str]] = {
    "memory": "celeriac.results.memory:MemoryResults",
    "postgres": "celeriac.results.postgres:PostgresResults",
    "postgresql": "celeriac.results.postgres:PostgresResults",
    "redis": "celeriac.results.redis:RedisResults",
    "redis+cluster": "celeriac.results.redis:RedisResults",
    "redis+sentinel": "celeriac.results.redis:RedisResults",
    "rediss": "celeriac.results.redis:RedisResults",
    "rediss+cluster": "celeriac.results.redis:RedisResults",
    "rediss+sentinel": "celeriac.results.redis:RedisResults",
    "sentinel": "celeriac.results.redis:RedisResults",
    "sqlite": "celeriac.results.sqlite:SQLiteResults",
    "unix": "celeriac.results.redis:RedisResults",
    "valkey": "celeriac.results.redis:RedisResults",
}


def connect(url: str, options: Mapping[str, Any] | None = None) -> ResultStore:
    """The result store of that URL. Opens no connection: the first verb does.

    Raises:
        UnknownScheme: no result store goes by that scheme; the nearest right one is named.
        ImproperlyConfigured: the URL cannot be used, or the driver is not installed.
    """
    parsed = urls.parse(url)
    store: ResultStore = plugins.find("result store", parsed.scheme, RESULTS)(parsed, options or {})
    return store
