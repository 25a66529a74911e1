"""The other ways into a Redis server: TLS, a Unix socket, a password; and what is said where one is wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from celeriac.brokers import connect
from celeriac.brokers.contract import Ack, Outgoing, Settlement
from celeriac.exceptions import BrokerRefused
from celeriac.testing.stand import Stand, message, names
from tests.ports import free_port
from tests.servers import PrivateRedis, RedisClient

Make = Callable[..., PrivateRedis]
PASSWORD = "a:b/c@d"  # what a URL must percent-encode
ENCODED = "a%3Ab%2Fc%40d"


def go_round(url: str) -> list[str]:
    """Send, take and acknowledge by that URL; a waiting take must be woken, and large messages come whole."""
    stand = Stand(lambda: connect(url))
    try:
        consumer = stand.consumer()
        taken, _ = stand.while_taking(consumer, lambda: stand.send("woken"))
        large = message("x" * 100_000)
        stand.broker.send([Outgoing(stand.queue, large)] * 3, 5.0)
        batch = consumer.take(10, 5.0)
        assert [one.data for one in batch] == [large] * 3
        assert consumer.settle([Settlement(one, Ack()) for one in (*taken, *batch)]) == []
        return names(taken)
    finally:
        stand.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with the openssl command, which is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem",
         "-out", tmp_path / "cert.pem", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "cert.pem"


def test_over_tls_with_a_certificate_that_is_checked(make_private_redis: Make, certificate: Path) -> None:
    port = free_port()
    make_private_redis(
        "--tls-port", str(port), "--tls-cert-file", str(certificate),
        "--tls-key-file", str(certificate.with_name("key.pem")),
        "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    )  # fmt: skip
    assert go_round(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") == ["woken"]
    for scheme in ("rediss", "amqps"):  # It is refused before either protocol is spoken.
        with pytest.raises(BrokerRefused, match=r"certificate verify failed.*ssl_ca_certs"):
            connect(f"{scheme}://localhost:{port}/0").send([Outgoing("q", message("a"))], 60.0)
    assert go_round(f"rediss://localhost:{port}/0?ssl_cert_reqs=none") == ["woken"]


def test_over_a_unix_socket(make_private_redis: Make, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    make_private_redis("--unixsocket", str(path))
    assert go_round(f"unix://{path}?db=3") == ["woken"]


def test_with_a_password(make_private_redis: Make) -> None:
    server = make_private_redis()
    with RedisClient(server.url) as client:
        client.call("CONFIG", "SET", "requirepass", PASSWORD)
    port = server.port
    assert go_round(f"redis://:{ENCODED}@127.0.0.1:{port}/0") == ["woken"]
    for wrong, told in (("", "wants a password"), (":wrong@", "password of the URL is wrong")):
        with pytest.raises(BrokerRefused, match=told) as caught:
            connect(f"redis://{wrong}127.0.0.1:{port}/0").send([Outgoing("q", message("a"))], 5.0)
        assert "wrong@" not in str(caught.value)
        assert PASSWORD not in str(caught.value)
