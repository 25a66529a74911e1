"""Sentinels: servers that watch a Redis primary, let a replica take over when it fails, and tell which is the primary.

`redis+sentinel://host:26379,other:26379/NAME/0`: the sentinels, the name under which they know the primary, the number
of the database. The sentinels are asked at each new connection, and a server that says of itself that it is a replica
is left alone: after a failover they may be behind for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from celeriac.drivers.redis import Address, Connection
from celeriac.drivers.redis_asking import first_answer
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

PORT: Final = 26379
#: The name that most set-ups have, for URLs without one.
NAME: Final = "mymaster"


def service_of(url: Url, query: Mapping[str, Any]) -> tuple[str, str | None]:
    """The primary's name, and what the URL says of the database: `/NAME`, `/NAME/0`, or `/0` with a `master_name`.

    Raises: ImproperlyConfigured: there is more in its path.
    """
    parts = [part for part in url.path.split("/") if part]
    given = query.get("master_name") or query.get("service_name")
    if len(parts) > 2 or (given and len(parts) > 1):
        raise ImproperlyConfigured(
            f"{url}: the path of a sentinel URL is /NAME/DATABASE, both may be left out"
        )
    if given or (len(parts) == 1 and parts[0].isdigit()):
        return str(given or NAME), parts[0] if parts else None
    return (parts[0] if parts else NAME), parts[1] if len(parts) == 2 else None


class Sentinels:
    """The sentinels of one primary. Safe to use from several threads."""

    def __init__(self, url: Url, query: Mapping[str, Any], name: str) -> None:
        self.name = name
        own = {
            key.removeprefix("sentinel_"): query.get(key)
            for key in ("sentinel_username", "sentinel_password")
        }
        own |= query.get("sentinel_kwargs") or {}
        scheme = "rediss" if url.scheme.startswith("rediss") else "redis"
        options = {key: value for key, value in query.items() if key.startswith(("ssl", "socket_connect"))}
        #: Whoever answered last comes first.
        self._addresses = [
            Address(
                msgspec.structs.replace(
                    url, scheme=scheme, hosts=((host, port or PORT),), path="", query={},
                    username=own.get("username"), password=own.get("password"),
                ),
                options,
            )
            for host, port in url.hosts or (("localhost", PORT),)
        ]  # fmt: skip

    def __str__(self) -> str:
        return ",".join(sorted(f"{one.host}:{one.port}" for one in self._addresses))

    def primary(self, timeout: float) -> tuple[str, int]:
        """Host and port of the primary, as the first sentinel says that knows it. Raises: OSError."""
        addresses = list(self._addresses)
        try:
            address, (host, port) = first_answer(addresses, timeout, self._ask)
        except ConnectionError as exc:
            raise ConnectionError(f"no sentinel tells where {self.name!r} is: {exc}") from None
        self._addresses = [address, *(other for other in addresses if other is not address)]
        return host.decode(), int(port)

    def _ask(self, connection: Connection) -> tuple[bytes, bytes]:
        found = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        if found is None:
            raise ConnectionError("it watches nothing of that name")
        host, port = found
        return host, port
