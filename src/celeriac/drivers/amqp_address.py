"""Where a RabbitMQ server is, how to get in, and what its refusals mean."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from celeriac import clock, plugins
from celeriac.drivers import dialing, errors
from celeriac.drivers.options import number
from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import Url

#: What every queue's and exchange's name begins with, unless the URL says `?prefix=`.
PREFIX: Final = "celeriac."

_OPTIONS: Final = frozenset({
    "connect_timeout", "heartbeat", "pool_limit", "prefix", "queue_type", "socket_connect_timeout",
    "socket_timeout", "ssl", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_cert_reqs", "ssl_check_hostname",
    "ssl_ciphers", "ssl_certfile", "ssl_keyfile", "ssl_password", "timeout",
})  # fmt: skip
#: Replies of the server that may pass: it stops, a cluster has no quorum, a channel was open for too long, a queue that
#: somebody has deleted is made again.
_PASSING: Final = ("311", "313", "320", "404", "405", "406", "504", "506", "541")
_ADVICE: Final = {
    "402": "the user name or the password of the URL is wrong",
    "403": "the user of the URL may not do this: see `rabbitmqctl set_permissions`, and the user name and password",
    "404": "it was deleted meanwhile",
    "406": "what is there under this name was made with other properties: delete it, or give another `?prefix=`",
    "530": "the server lets this user not into that virtual host, or there is none: see `rabbitmqctl list_vhosts`",
}


#: A quorum queue that another connection makes at this moment is known before it runs: the server's own channel dies of
#: that. So often, and after so many seconds each, what met with it is tried again.
UNBORN: Final = "541"
UNBORN_TRIES: Final = 5
UNBORN_PAUSE: Final = 0.1


class ServerError(errors.ServerError):
    """The server closed a channel or the connection, and said why. `code` is AMQP's number."""

    advice = _ADVICE

    @property
    def passing(self) -> bool:
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
        self.timeout = number(query, "timeout", number(query, "socket_timeout", 10.0))
        #: The most connections of a pool; 0 is no limit.
        self.pool_limit = int(number(query, "pool_limit", 10))
        #: The most seconds between two signs of life, 0 for none at all; None: as suits the lease.
        self.heartbeat = None if query.get("heartbeat") is None else int(number(query, "heartbeat", 0))
        where = ",".join(f"{host}:{port}" for host, port in self.hosts)
        names = "" if self.prefix == PREFIX else f" (queues {self.prefix}*)"
        #: Server, virtual host and prefix, without secrets.
        self.place = f"rabbitmq {where}/{self.vhost.removeprefix('/')}{names}"

    def dial(self, timeout: float) -> socket.socket:
        """A socket that is connected to the first host that answers, within `timeout` seconds. Raises: OSError."""
        deadline = clock.monotonic() + timeout
        error: OSError = OSError("the URL names no host")
        for host, port in self.hosts:
            try:
                return dialing.dial(host, port, deadline, self.tls)
            except OSError as exc:
                error = exc
        raise error


broker_errors = partial(errors.broker_errors, OSError)
