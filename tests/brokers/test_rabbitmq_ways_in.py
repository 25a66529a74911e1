"""The ways into a RabbitMQ server: TLS, with certificates on both sides; users, and what they may; and what is said if
something is wrong."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import brokers, clock
from celeriac.brokers.contract import Ack, Delivery, Outgoing, Revocation, Settlement
from celeriac.exceptions import BrokerRefused, ImproperlyConfigured
from celeriac.testing.stand import Stand, message, names
from tests.ports import free_port
from tests.private_rabbitmq import PrivateRabbit

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(240), pytest.mark.xdist_group("ways in")]

SOON = 20.0


class Certificates:
    """An authority, certificates by it for `localhost` and for a client, and one by nobody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        subject = ("-x509", "-days", "2", "-subj")
        self._openssl("req", *subject, "/CN=An authority", "-newkey", "rsa:2048", "-nodes", *self._out("ca"))
        self._openssl(
            "req", *subject, "/CN=A stranger", "-newkey", "rsa:2048", "-nodes", *self._out("stranger")
        )
        for name in ("localhost", "client"):
            (folder / "extensions").write_text(f"subjectAltName=DNS:{name}")
            request = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.request")
            self._openssl("req", "-subj", f"/CN={name}", *request)
            self._openssl(
                "x509", "-req", "-in", f"{name}.request", "-out", f"{name}.pem", "-days", "2", "-CAcreateserial",
                "-CA", "ca.pem", "-CAkey", "ca.key", "-extfile", "extensions",
            )  # fmt: skip

    def _out(self, name: str) -> tuple[str, ...]:
        return "-keyout", f"{name}.key", "-out", f"{name}.pem"

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=self._folder)

    def file(self, name: str) -> str:
        return str(self._folder / name)

    def ours(self, name: str) -> str:
        """The options that name our own certificate."""
        return f"&ssl_certfile={self.file(name)}.pem&ssl_keyfile={self.file(name)}.key"

    @property
    def trusted(self) -> str:
        """The option that names whom we trust."""
        return f"?ssl_ca_certs={self.file('ca.pem')}"


class Guarded(PrivateRabbit):
    """A server that speaks TLS at another port, where it wants certificates of clients."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("makes its certificates with the openssl command, which is not installed")
        self.certificates = Certificates(folder)
        self.tls_port = free_port()
        file = self.certificates.file
        super().__init__(
            folder, f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", f"ssl_options.cacertfile = {file('ca.pem')}",
            f"ssl_options.certfile = {file('localhost.pem')}", f"ssl_options.keyfile = {file('localhost.key')}",
            "ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true",
        )  # fmt: skip
        self.tls_url = f"amqps://guest:guest@localhost:{self.tls_port}//"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with contextlib.closing(Guarded(tmp_path_factory.mktemp("guarded"))) as server:
        yield server


def go_round(url: str) -> list[str]:
    """Send, take and acknowledge by that URL; a waiting take must be woken, and large messages come whole."""
    stand = Stand(lambda: brokers.connect(url))
    try:
        consumer = stand.consumer()
        taken, _ = stand.while_taking(consumer, lambda: stand.send("woken"))
        large = message("x" * 300_000)
        stand.broker.send([Outgoing(stand.queue, large)] * 3, SOON)
        batch: list[Delivery] = []
        while len(batch) < 3:
            batch += consumer.take(10, SOON)
        assert [one.data for one in batch] == [large] * 3
        assert consumer.settle([Settlement(one, Ack()) for one in (*taken, *batch)]) == []
        return names(taken)
    finally:
        stand.close()


def refusal(url: str) -> str:
    """What a sender is told at once; nothing of a password is in it."""
    with contextlib.closing(brokers.connect(url)) as broker:
        with pytest.raises(BrokerRefused) as caught:
            broker.send([Outgoing("letters", message("a"))], 60.0)
    assert "swordfish" not in str(caught.value)
    return str(caught.value)


# -- TLS ---------------------------------------------------------------------------------------------------


def test_over_tls_with_certificates_that_are_checked_on_both_sides(server: Guarded) -> None:
    ours = server.certificates.trusted + server.certificates.ours("client")
    assert go_round(server.tls_url + ours) == ["woken"]
    assert go_round(f"{server.tls_url}?ssl_cert_reqs=none{server.certificates.ours('client')}") == ["woken"]


def test_what_is_wrong_with_certificates_is_told_at_once(server: Guarded) -> None:
    url, certificates = server.tls_url, server.certificates
    trusted, ours = certificates.trusted, certificates.ours("client")
    assert "certificate verify failed" in (told := refusal(url)) and "ssl_ca_certs" in told
    stranger = f"?ssl_ca_certs={certificates.file('stranger.pem')}"
    assert "certificate verify failed" in refusal(url + stranger + ours)
    assert "not valid for '127.0.0.1'" in refusal(url.replace("localhost", "127.0.0.1") + trusted + ours)
    assert "the server wants a certificate of ours: ssl_certfile=" in refusal(url + trusted)
    assert "does not accept our certificate" in refusal(url + trusted + certificates.ours("stranger"))
    plain = url.replace(str(server.tls_port), str(server.port))
    assert "no TLS is spoken at that port" in refusal(plain + trusted + ours)


@pytest.mark.parametrize(
    "option",
    ["?ssl_ca_certs=/nowhere/ca.pem", "?ssl_certfile=/nowhere/client.pem", "?ssl_ca_certs=/etc/hostname"],
)
def test_a_certificate_that_cannot_be_read_is_named(server: Guarded, option: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(option[1:])):
        brokers.connect(server.tls_url + option)


# -- users ---------------------------------------------------------------------------------------------------

#: What docs/rabbitmq.md tells to give a user, for all three permissions.
LEAST = r"^(celeriac[.~].*|amq\\.(gen-.*|default))$"


@pytest.fixture
def place(server: Guarded) -> Iterator[str]:
    """A virtual host that the user `clerk` may enter, and nothing more."""
    with server.virtual_host() as url:
        server.evaluate('rabbit_auth_backend_internal:add_user(<<"clerk">>, <<"swordfish">>, <<"tests">>).')
        host = url.rpartition("/")[2]
        yield f"amqp://clerk:swordfish@127.0.0.1:{server.port}/{host}"
        server.evaluate('rabbit_auth_backend_internal:delete_user(<<"clerk">>, <<"tests">>).')


def allow(server: Guarded, place: str, configure: str, write: str, read: str) -> None:
    host = place.rpartition("/")[2]
    words = ", ".join(f'<<"{word}">>' for word in ("clerk", host, configure, write, read, "tests"))
    server.evaluate(f"rabbit_auth_backend_internal:set_permissions({words}).")


def test_a_user_needs_what_the_documentation_says(server: Guarded, place: str) -> None:
    allow(server, place, LEAST, LEAST, LEAST)
    assert go_round(place) == ["woken"]
    with contextlib.closing(brokers.connect(place)) as broker, contextlib.closing(broker.listen(["here"])):
        broker.send([Outgoing("letters", message("a"), clock.now() + 0.1)], SOON)
        broker.notify("here", b"word")
        broker.revoke("letters", [Revocation(b"k" * 16)], 60.0)
        assert "letters" in broker.queues()


@pytest.mark.parametrize("lacking", range(3), ids=["configure", "write", "read"])
def test_a_user_who_may_not_is_told_what_and_how_to_be_let(server: Guarded, place: str, lacking: int) -> None:
    allowed = [".*"] * 3
    allowed[lacking] = ""
    allow(server, place, *allowed)
    told = refusal(place)
    assert (
        "ACCESS_REFUSED" in told
        and "needs configure, write and read: see `rabbitmqctl set_permissions`" in told
    )


def test_who_is_not_let_in_is_told_why(server: Guarded, place: str) -> None:
    told = refusal(place)
    assert "refused for user 'clerk'" in told and "`rabbitmqctl set_permissions`" in told
    for wrong in (place.replace("swordfish", "swordfish2"), place.replace("clerk", "nobody")):
        assert "the user name or the password of the URL is wrong" in refusal(wrong)
    assert "`rabbitmqctl add_vhost`" in refusal(f"{place}-that-is-not-there")
