"""Where a RabbitMQ server is, how to get in, and what its refusals mean."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from celeriac import clock, plugins
from celeriac.drivers import dialing, errors
from celeriac.drivers.options import number, truth
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

#: What every queue's and exchange's name begins with, unless the URL says `?prefix=`.
PREFIX: Final = "celeriac."

_OPTIONS: Final = frozenset({
    "cluster", "connect_timeout", "heartbeat", "pool_limit", "prefix", "queue_type", "socket_connect_timeout",
    "socket_timeout", "ssl", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_cert_reqs", "ssl_check_hostname",
    "ssl_ciphers", "ssl_certfile", "ssl_keyfile", "ssl_password", "timeout",
})  # fmt: skip
#: Seconds for which a host that failed is tried behind the others.
_SHUNNED: Final = 10.0
#: Seconds that a call may take, unless the URL says `?timeout=`: in a cluster, somebody else may answer.
_TIMEOUT: Final = 10.0
_CLUSTER_TIMEOUT: Final = 4.0
#: Replies of the server that may pass: it stops, a cluster has no quorum, a channel was open for too long, a queue that
#: somebody has deleted is made again.
_PASSING: Final = ("blocked", "311", "313", "320", "404", "405", "406", "504", "506", "541")
_ADVICE: Final = {
    "blocked": "it goes on by itself when there is enough again; see `rabbitmq-diagnostics alarms`",
    "402": "the user name or the password of the URL is wrong",
    "403": "the user of the URL needs configure, write and read: see `rabbitmqctl set_permissions`",
    "404": "it was deleted meanwhile",
    "406": "what is there under this name was made with other properties: delete it, or give another `?prefix=`",
    "530": "let the user of the URL into that virtual host, by `rabbitmqctl set_permissions`, or name another",
}


#: Not a code of the server's: it reads nothing that is published, until an alarm of its has ended.
BLOCKED: Final = "blocked"
#: A quorum queue that another connection makes at this moment is known before it runs: the server's own channel dies of
#: that. So often, and after so many seconds each, what met with it is tried again.
UNBORN: Final = "541"
UNBORN_TRIES: Final = 5
UNBORN_PAUSE: Final = 0.1


class ServerError(errors.ServerError):
    """The server closed a channel or the connection, and said why. `code` is AMQP's number."""

    advice = _ADVICE

    def explain(self) -> str:
        text = str(self)
        if self._is_limit:
            return f"{text}: raise it, by `rabbitmqctl set_vhost_limits` or `set_user_limits`, or see who is connected"
        if self.code == "403" and "Login was refused" in text:
            return f"{text}: the user name or the password of the URL is wrong"
        if self.code == "530" and "not found" in text:
            return f"{text}: make it, by `rabbitmqctl add_vhost`, or name another at the end of the URL"
        return super().explain()

    @property
    def is_blocked(self) -> bool:
        """Whether it is an alarm: the connection can be used again."""
        return self.code == BLOCKED

    @property
    def _is_limit(self) -> bool:
        """Whether there are too many connections, channels or queues."""
        return "limit" in str(self) and "is reached" in str(self)

    @property
    def passing(self) -> bool:
        if self._is_limit:
            return True
        # What cannot be used as it is declared stays so; another 406 is a delivery that was held for too long.
        return self.code in _PASSING and "inequivalent" not in str(self)


class Address:
    """Where the server is and how to get in, from a URL and transport options."""

    def __init__(self, url: Url, options: Mapping[str, Any]) -> None:
        query = {**options, **url.query}
        for name in query.keys() - _OPTIONS:
            raise ImproperlyConfigured(
                f"amqp has no option {name!r}.{plugins.nearest(name, sorted(_OPTIONS))}"
            )
        self.tls = dialing.tls_context(query, wanted=url.scheme == "amqps")
        port = 5672 if self.tls is None else 5671
        self.hosts: Final = [(host, own or port) for host, own in url.hosts] or [("localhost", port)]
        self.username = url.username or "guest"
        self.password = url.password if url.password is not None else "guest"
        #: As with Celery, `//` at the end is the virtual host `/`; so is nothing.
        self.vhost = url.path[1:] or "/"
        self.prefix = str(query.get("prefix", PREFIX))
        self.kind = str(query.get("queue_type", "quorum"))
        if self.kind not in ("quorum", "classic"):
            raise ImproperlyConfigured(f"queue_type is 'quorum' or 'classic', not {self.kind!r}")
        self.connect_timeout = number(query, "connect_timeout", number(query, "socket_connect_timeout", 4.0))
        #: Whether there are several nodes, which may fail one by one.
        named = truth(query, "cluster")
        self.is_cluster: Final = len(self.hosts) > 1 if named is None else named
        patience = _CLUSTER_TIMEOUT if self.is_cluster else _TIMEOUT
        self.timeout = number(query, "timeout", number(query, "socket_timeout", patience))
        #: Until when (monotonic) a host that has failed is tried behind the others.
        self._shunned: dict[tuple[str, int], float] = {}
        #: The most connections of a pool; 0 is no limit.
        self.pool_limit = int(number(query, "pool_limit", 10))
        #: The most seconds between two signs of life, 0 for none at all; None: as suits the lease.
        self.heartbeat = None if query.get("heartbeat") is None else int(number(query, "heartbeat", 0))
        where = ",".join(sorted(f"{host}:{port}" for host, port in self.hosts))
        names = "" if self.prefix == PREFIX else f" (queues {self.prefix}*)"
        #: Server, virtual host and prefix, without secrets.
        self.place = f"rabbitmq {where}/{self.vhost.removeprefix('/')}{names}"

    def order(self) -> list[tuple[str, int]]:
        """The hosts, in the order in which to try them: a random one, and those behind that failed lately."""
        now = clock.monotonic()
        places = random.sample(self.hosts, len(self.hosts))
        return sorted(places, key=lambda place: now < self._shunned.get(place, now))

    def note(self, place: tuple[str, int], *, answered: bool) -> None:
        """Whether a host has let us in."""
        self._shunned[place] = 0.0 if answered else clock.monotonic() + _SHUNNED


broker_errors = partial(errors.broker_errors, OSError)
