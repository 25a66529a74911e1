"""How a socket to a server is made: its host's addresses in turn, TLS where that is wanted, all within a time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Final

from celeriac import clock, plugins
from celeriac.drivers.names import look_up
from celeriac.drivers.options import truth
from celeriac.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    import ssl

#: Options that name files.
_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


def dial(
    host: str, port: int, deadline: float, tls: ssl.SSLContext | None, *, keepalive: bool = True
) -> socket.socket:
    """A connected socket until the deadline (monotonic), the name lookup included. Raises: OSError."""
    error: OSError = OSError(f"{host} has no address")
    for family, kind, proto, _, where in look_up(host, port, max(0.001, deadline - clock.monotonic())):
        sock = socket.socket(family, kind, proto)
        try:
            with closed_on_error(sock):
                sock.settimeout(max(0.001, deadline - clock.monotonic()))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive)
                sock.connect(where)
                if tls is not None:
                    sock = tls.wrap_socket(sock, server_hostname=host)
                return sock
        except OSError as exc:
            error = exc
    raise error


def tls_context(query: Mapping[str, Any], *, wanted: bool) -> ssl.SSLContext | None:
    """What `ssl_*` options say, which bear redis-py's names. None: neither the URL's scheme nor `ssl` asks for TLS.

    Raises: ImproperlyConfigured: a file is missing, or is not what it should be.
    """
    if not wanted and not truth(query, "ssl"):
        return None
    try:
        return _context(query)
    except OSError as exc:
        named = ", ".join(f"{name}={query[name]}" for name in _FILES if query.get(name))
        raise ImproperlyConfigured(
            f"what the URL says of TLS is of no use: {named or 'its options'}: {exc}"
        ) from exc


def _context(query: Mapping[str, Any]) -> ssl.SSLContext:
    # Loaded when it is needed: OpenSSL costs a process that does not use it some 2 MB.
    context: ssl.SSLContext = plugins.load("ssl:create_default_context")(
        cafile=query.get("ssl_ca_certs"), capath=query.get("ssl_ca_path"), cadata=query.get("ssl_ca_data")
    )
    checks = str(query.get("ssl_cert_reqs", "required")).lower().removeprefix("cert_")
    if checks == "none":
        context.check_hostname = False
        context.verify_mode = plugins.load("ssl:CERT_NONE")
    elif truth(query, "ssl_check_hostname") is False:
        context.check_hostname = False
    if query.get("ssl_ciphers"):
        context.set_ciphers(query["ssl_ciphers"])
    if query.get("ssl_certfile"):
        context.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"), query.get("ssl_password"))
    return context


@contextlib.contextmanager
def closed_on_error(sock: socket.socket) -> Generator[None]:
    """Close it if what is inside fails."""
    try:
        yield
    except BaseException:
        sock.close()
        raise
