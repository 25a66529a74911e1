"""Asking several servers that should know the same, until one answers: sentinels, and nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from celeriac import clock
from celeriac.drivers.redis import Address, Connection, ServerError

T = TypeVar("T")


def first_answer(
    addresses: Sequence[Address], timeout: float, ask: Callable[[Connection], T]
) -> tuple[Address, T]:
    """Who answers first, in their order, and what. Raises: OSError: nobody does; it tells why of each."""
    deadline = clock.monotonic() + timeout
    troubles: list[str] = []
    for place, address in enumerate(addresses):
        # One that hangs must leave time for the others.
        share = (deadline - clock.monotonic()) / (len(addresses) - place)
        try:
            connection = Connection(address, max(0.05, share))
            try:
                return address, ask(connection)
            finally:
                connection.close()
        except (OSError, ServerError) as exc:
            troubles.append(f"{address.host}:{address.port}: {exc or type(exc).__name__}")
    raise ConnectionError("; ".join(troubles))
