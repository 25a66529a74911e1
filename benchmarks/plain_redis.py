"""Redis over a bare socket: the limit of what a client in Python can do, and a way to look at the server."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import hiredis


class Redis:
    """A bare connection: for limits, and for looking at the server."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, *command: Any) -> Any:
        self._sock.sendall(hiredis.pack_command(command))
        return self.reply()

    def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Several commands in one round trip."""
        self._sock.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        return [self.reply() for _ in commands]

    def reply(self) -> Any:
        while (reply := self._reader.gets()) is False:
            data = self._sock.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def info(self, name: str) -> int:
        """A number of `INFO`, such as `used_memory`, in bytes."""
        text = self.call("INFO", "everything").decode()
        return int(next(line.partition(":")[2] for line in text.splitlines() if line.startswith(name + ":")))

    def memory(self) -> int:
        """Bytes that the server has in use, without the buffers of its clients: these come and go."""
        return self.info("used_memory") - self.info("mem_clients_normal")

    def close(self) -> None:
        self._sock.close()

    def clear(self) -> None:
        """Delete everything, at once: the server is ours alone."""
        self.call("FLUSHALL", "SYNC")
        self.call("SCRIPT", "FLUSH", "SYNC")
        self.call("FUNCTION", "FLUSH", "SYNC")
