"""Host names become addresses within a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from celeriac import native


def look_up(host: str, port: int, timeout: float) -> list[Any]:
    """`getaddrinfo` with a time limit: a resolver that hangs must not hang the caller. Raises: OSError."""
    # As bytes where that is possible: a text would load the tables of international names, which costs each
    # child 2 ms and the supervisor half a megabyte.
    name = host.encode() if host.isascii() else host
    with contextlib.suppress(OSError):
        return native.getaddrinfo(name, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(name, port, 0, socket.SOCK_STREAM))
        except OSError as exc:
            found.append(exc)

    asker = threading.Thread(target=ask, name="celeriac-name-lookup", daemon=True)
    asker.start()
    asker.join(timeout)
    if not found:
        raise TimeoutError(f"looking up the name {host!r} took longer than {timeout:.1f} s")
    if isinstance(found[0], OSError):
        raise found[0]
    return list(found[0])
