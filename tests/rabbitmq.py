"""The RabbitMQ server that tests use: the one that CELERIAC_TEST_AMQP_URL names, else the one on the standard port,
else a private one (`private_rabbitmq.py`).

Where `rabbitmqctl` may be used, each session has a virtual host of its own there, which goes away with all that is in
it. Elsewhere tests use a prefix of their own in the virtual host of the URL, and delete what they have made, but for
the chain of queues for delays, which is one for a virtual host.

    python -m tests.rabbitmq ensure      install one where none answers
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac import urls
from celeriac.brokers.rabbitmq_leases import Leases
from celeriac.brokers.rabbitmq_routes import Routes
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address, ServerError
from celeriac.drivers.amqp_channel import Channel
from tests import packages

URL_VARIABLE = "CELERIAC_TEST_AMQP_URL"
#: What tests bear that need a server: one at a time, as many quorum queues at once are more than some servers stand.
MARKS = [pytest.mark.rabbitmq, pytest.mark.xdist_group("rabbitmq")]
STANDARD_URL = "amqp://guest:guest@127.0.0.1:5672//"
MISSING = (
    "no RabbitMQ server: none answers at amqp://guest@127.0.0.1:5672. Run  make test  or install and start it "
    f"(Debian, Ubuntu: apt-get install -y rabbitmq-server), or name a server in {URL_VARIABLE}"
)


def program() -> str | None:
    """Where the server's program is. Not everybody has that folder in his path."""
    return shutil.which("rabbitmq-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def answers(url: str) -> bool:
    """Whether a server that we can use answers there."""
    try:
        Connection(Address(urls.parse(url), {}), 10.0).close()
    except (OSError, ServerError):
        return False
    return True


def found() -> str | None:
    """The URL of a server that is there already, or None.

    Raises:
        RuntimeError: the environment names a server that does not answer; no other is meant.
    """
    if named := os.environ.get(URL_VARIABLE):
        if not answers(named):
            raise RuntimeError(f"{URL_VARIABLE}={urls.mask_url(named)}: no RabbitMQ answers there")
        return named
    return STANDARD_URL if answers(STANDARD_URL) else None


@contextmanager
def virtual_host(url: str) -> Iterator[str]:
    """The same server, in a virtual host of our own if we can have one."""
    name = f"celeriac-test-{secrets.token_hex(6)}"
    parsed = urls.parse(url)
    is_local = not os.environ.get(URL_VARIABLE) and shutil.which("rabbitmqctl") is not None
    if not is_local or not _control("add_vhost", name):
        yield url
        return
    try:
        _control("set_permissions", "-p", name, parsed.username or "guest", ".*", ".*", ".*")
        yield f"amqp://{parsed.username}:{parsed.password}@{parsed.host}:{parsed.port or 5672}/{name}"
    finally:
        _control("delete_vhost", name)


def _control(*words: str) -> bool:
    done = subprocess.run(["rabbitmqctl", "-q", *words], capture_output=True, timeout=120, check=False)
    return done.returncode == 0


def make_chains(url: str) -> None:
    """Make the chains for delays, which whoever delays first would: some hundred milliseconds, within a test's time."""
    for kind in ("quorum", "classic"):
        address = Address(urls.parse(with_prefix(url, "unused.", kind)), {})
        connection = Connection(address, 20.0)
        routes = Routes(address)
        routes.ensure_exchanges(connection)
        routes.ensure_chain(connection)
        with connection.borrowed() as channel:
            _delete_exchanges(channel, routes)
        connection.close()


def _delete_exchanges(channel: Channel, routes: Routes) -> None:
    for name in (routes.names.due, routes.names.notices, routes.names.changes):
        channel.delete_exchange(name)
    channel.gather()


def settings(folder: Path) -> dict[str, Any]:
    """What an application needs besides the URL. First sends make queues, for which a busy server takes its time."""
    return {"result_backend": f"sqlite:///{folder}/results.sqlite", "broker_publish_timeout": 20.0}


def with_prefix(url: str, prefix: str, kind: str) -> str:
    """That URL, for an adapter that makes queues under `prefix` only."""
    return f"{url}?prefix={prefix}&queue_type={kind}"


def clear(place: str) -> None:
    """Delete all queues and exchanges that the broker has made under a prefix."""
    routes = Routes(Address(urls.parse(place), {}))
    connection = Connection(Address(urls.parse(place), {}), 20.0)
    names = routes.names
    doomed = [names.leases, names.bans, names.broadcasts, names.queues]
    for queue, known in routes.queues.read(connection).items():
        doomed += [names.part(queue, part) for part in known.parts]
    doomed += [names.holding(owner) for owner in Leases(routes).owners(connection)]
    with connection.borrowed() as channel:
        for name in doomed:
            channel.delete(name)
        _delete_exchanges(channel, routes)
    connection.close()


def ensure() -> bool:
    """See to it that tests find or can start a server: nothing to do, or install it. False, with why: they cannot."""
    try:
        if found() or program():
            return True
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return False
    packages.install("rabbitmq-server")
    if program() is None:
        print(MISSING, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:] != ["ensure"]:
        sys.exit("usage: python -m tests.rabbitmq ensure")
    sys.exit(not ensure())
