"""A TCP proxy on loopback that can behave like a bad network, for one peer each.

| mode | what happens to what passes |
|---|---|
| open | nothing |
| refuse | connections are reset, and new ones refused |
| hold | nothing passes and nothing is lost: when the mode ends it all arrives, late; connecting works |
| delay | every piece arrives late by some tens of milliseconds |
| cut | the next reply of each connection is cut in its middle, and the connection reset |
| half-open | requests arrive, replies do not; connections that have lost bytes are reset when the mode ends |
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

from tests.ports import free_port

MODES = ("refuse", "hold", "delay", "cut", "half-open")
_DELAY = 0.03


class Proxy:
    """One way to a server. The modes may be set from any thread."""

    def __init__(self, network: Network, port: int) -> None:
        """To the server on that port of loopback; `port` of the proxy itself is known once `network` has opened it."""
        self.port = 0
        self.mode = "open"
        self._target = port
        self._network = network
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._changed = asyncio.Event()

    def set_mode(self, mode: str, spare: int = 0) -> None:
        """From now on. Returns when it is so. `spare`: how many replies of each connection pass before one is cut."""
        assert mode == "open" or mode in MODES
        self._network.do(self._enter(mode, spare))

    async def open(self) -> None:
        # The port stays, whatever happens in between.
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            link.reset()

    async def _enter(self, mode: str, spare: int) -> None:
        before, self.mode = self.mode, mode
        if before == "refuse" and mode != "refuse":
            await self.open()
        if mode == "refuse":
            await self.close()
        for link in list(self._links):
            link.spare = spare
            if link.has_lost:
                link.reset()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._wait_unheld()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
            link.writers.append(there_writer)
            await asyncio.gather(
                self._pump(link, reader, there_writer, is_reply=False),
                self._pump(link, there_reader, writer, is_reply=True),
            )
        except (OSError, asyncio.CancelledError):
            # Cancelled at the very end only; asyncio would report it as an error.
            link.reset()
        finally:
            self._links.discard(link)
            link.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await reader.read(65536):
            await self._wait_unheld()
            if self.mode == "delay":
                await asyncio.sleep(_DELAY)
            elif self.mode == "cut" and is_reply and link.spare > 0:
                link.spare -= 1
            elif self.mode == "cut" and is_reply:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                raise ConnectionResetError
            elif self.mode == "half-open" and is_reply:
                link.has_lost = True
                continue
            if link.has_lost and is_reply:
                continue
            writer.write(data)
            await writer.drain()
        await self._wait_unheld()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _wait_unheld(self) -> None:
        while self.mode == "hold":
            await self._changed.wait()


class _Link:
    """Both halves of one connection through the proxy."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.has_lost = False
        self.spare = 0

    def reset(self) -> None:
        """End it as a reset does, with what is on its way lost."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class Network:
    """The thread in which proxies live. `with Network() as network: proxy = network.proxy(6379)`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: list[Proxy] = []

    def proxy(self, port: int) -> Proxy:
        """A new way to the server on that port."""
        proxy = Proxy(self, port)
        self.do(proxy.open())
        self._proxies.append(proxy)
        return proxy

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run that in the thread; returns when it is done."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    def __enter__(self) -> Network:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for proxy in self._proxies:
            self.do(proxy.close())
        self.do(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
