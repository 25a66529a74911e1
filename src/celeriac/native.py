"""The system's own calls, for what must not turn into greenlets.

A pool may patch the standard library before the application is imported (`PoolSpec.patch`); from then on `select.poll`
or `os.fork` belong to its loop. What is bound here was bound before: the template imports this module first. It
is for code that runs no loop (the template), must not wait for one (a thread that watches it), or does not wait
at all and would only pay for the detour.
"""

from __future__ import annotations

from _thread import RLock, allocate_lock, get_ident, start_new_thread
from os import fork, waitpid
from select import poll
from signal import signal
from socket import getaddrinfo, socket, socketpair
from time import sleep

__all__ = [
    "RLock",
    "allocate_lock",
    "fork",
    "get_ident",
    "getaddrinfo",
    "poll",
    "signal",
    "sleep",
    "socket",
    "socketpair",
    "start_new_thread",
    "waitpid",
]
