"""Ports on loopback for servers that tests start, stop, and start again where they were."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

#: Below those that the system gives to outgoing connections: a client of another test might be given the port of a
#: server that is down for a moment, which could not come back then.
_FIRST, _COUNT = 10_000, 20_000
#: Each process begins elsewhere: several run tests at once, and `random` has the same seed in all of them.
_numbers = itertools.count(int.from_bytes(os.urandom(4)))


def free_port() -> int:
    """A port that nothing is bound to; another one each time."""
    for number in _numbers:
        port = _FIRST + number % _COUNT
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("the numbers never end")
