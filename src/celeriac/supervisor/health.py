"""Answers health probes over HTTP, in the supervisor's own loop: what it says is decided in `condition`.

Just enough of HTTP/1.1 for who probes: one request for each connection, without a body. Nothing here waits, and
nobody can make it grow: a request has few bytes and little time, and of too many visitors the oldest goes.
A server of the standard library would cost more memory than the rest of the supervisor.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import Final

from celeriac import clock
from celeriac.exceptions import ImproperlyConfigured

#: Answers a path with an HTTP status and a text; told whether who asks is on this machine.
Answer = Callable[[str, bool], tuple[int, str]]

_MOST_VISITORS: Final = 16
_MOST_BYTES: Final = 8192
#: Seconds that a visitor has for a whole request and for reading the answer.
_PATIENCE: Final = 5.0
#: How long nobody is let in after that has failed: descriptors are short.
_REST: Final = 1.0
_PHRASES: Final = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 503: "Service Unavailable",
}  # fmt: skip


def listen(address: str) -> socket.socket:
    """A socket that listens at `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ImproperlyConfigured: that is no address, or none of this machine.
        OSError: the port is taken, or not for us.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ImproperlyConfigured(
            f"{address!r} is not HOST:PORT, as in 127.0.0.1:8081 (0.0.0.0:8081 is every address of this machine)"
        )
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as exc:
        raise ImproperlyConfigured(f"{address!r}: the host {host!r} is not known: {exc}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_MOST_VISITORS)
    except BaseException:
        listener.close()
        raise
    return listener


class _Visitor:
    """One connection: what came of its request, and what is left of its answer."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.until = now + _PATIENCE
        self.request = b""
        self.unsent: bytes | None = None


class HealthServer:
    """Listens in a selector whose keys hold the functions to call."""

    def __init__(self, listener: socket.socket, selector: BaseSelector, answer: Answer) -> None:
        self._listener = listener
        self._selector = selector
        self._answer = answer
        # In the order in which they came.
        self._visitors: dict[int, _Visitor] = {}
        self._resting_until = 0.0
        listener.setblocking(False)
        selector.register(listener, EVENT_READ, self._welcome)

    @property
    def place(self) -> str:
        """Where it listens, as a URL."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def look(self) -> None:
        """Send those away whose time is over."""
        now = clock.monotonic()
        for visitor in list(self._visitors.values()):
            if now >= visitor.until:
                self._dismiss(visitor)
        if self._resting_until and now >= self._resting_until:
            self._resting_until = 0.0
            self._selector.register(self._listener, EVENT_READ, self._welcome)

    def close(self) -> None:
        """Send everybody away, and listen no more. Idempotent."""
        for visitor in list(self._visitors.values()):
            self._dismiss(visitor)
        if self._listener.fileno() >= 0:
            if not self._resting_until:
                self._selector.unregister(self._listener)
            self._listener.close()

    def _welcome(self) -> None:
        now = clock.monotonic()
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            self._selector.unregister(self._listener)
            self._resting_until = now + _REST
            return
        sock.setblocking(False)
        if len(self._visitors) >= _MOST_VISITORS:
            self._dismiss(next(iter(self._visitors.values())))
        visitor = _Visitor(sock, now)
        self._visitors[sock.fileno()] = visitor
        self._selector.register(sock, EVENT_READ, partial(self._serve, visitor))
        # A probe sends its request as it connects: it is there already.
        self._serve(visitor)

    def _serve(self, visitor: _Visitor) -> None:
        if visitor.sock.fileno() < 0:
            # Sent away while this call was on its way.
            return
        try:
            if visitor.unsent is None and not self._read(visitor):
                return
            if visitor.unsent:
                visitor.unsent = visitor.unsent[visitor.sock.send(visitor.unsent) :]
        except BlockingIOError:
            if visitor.unsent:
                self._selector.modify(visitor.sock, EVENT_WRITE, partial(self._serve, visitor))
            return
        except OSError:
            visitor.unsent = b""
        if not visitor.unsent:
            self._dismiss(visitor)

    def _read(self, visitor: _Visitor) -> bool:
        """Read on. Whether it is known what becomes of the visitor: an answer, or none (empty)."""
        data = visitor.sock.recv(_MOST_BYTES)
        visitor.request += data
        lines = visitor.request.replace(b"\r\n", b"\n")
        if b"\n\n" in lines:
            visitor.unsent = self._reply(lines.partition(b"\n")[0], visitor.sock)
        elif len(visitor.request) >= _MOST_BYTES:
            visitor.unsent = _response(431, "that is too long for a probe")
        elif not data:
            visitor.unsent = b""
        return visitor.unsent is not None

    def _reply(self, line: bytes, sock: socket.socket) -> bytes:
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
            return _response(400, "that is no HTTP request")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _response(405, "only GET and HEAD are answered", "Allow: GET, HEAD\r\n")
        status, text = self._answer(target.partition("?")[0], _is_near(sock))
        kind = "application/json" if text.startswith("{") else "text/plain; charset=utf-8"
        return _response(status, text, f"Content-Type: {kind}\r\n", with_body=method == "GET")

    def _dismiss(self, visitor: _Visitor) -> None:
        self._visitors.pop(visitor.sock.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(visitor.sock)
        visitor.sock.close()


def _is_near(sock: socket.socket) -> bool:
    """Whether both ends of the connection are this machine's loopback."""
    host = str(sock.getpeername()[0]).removeprefix("::ffff:")
    return host == "::1" or host.startswith("127.")


def _response(status: int, text: str, headers: str = "", *, with_body: bool = True) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{headers}Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
