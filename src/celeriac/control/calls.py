"""Calls of tasks as Celery's `inspect` shows them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from celeriac import clock, message
from celeriac.exceptions import DecodeError
from celeriac.message import Message

#: Messages of more bytes are not read for those who only ask.
LONG: Final = 4096
#: Brokers keep times to a thousandth of a second.
_ROUNDED: Final = 0.01


def described(decoded: Message, queue: str, crashes: int = 0) -> dict[str, Any]:
    """A call from that queue that has not begun."""
    delivery = {
        "exchange": "", "routing_key": queue, "priority": decoded.options.priority,
        "redelivered": decoded.options.redelivered or crashes > 0,
    }  # fmt: skip
    known = {"args": list(decoded.args), "kwargs": decoded.kwargs, "delivery_info": delivery}
    return {**unread(decoded.id, decoded.task), **known}


def unread(task_id: str, name: str) -> dict[str, Any]:
    """A call of which no more is known."""
    return {
        "id": task_id, "name": name, "args": None, "kwargs": None, "type": name, "hostname": None, "time_start": None,
        "acknowledged": False, "delivery_info": {}, "worker_pid": None,
    }  # fmt: skip


def waiting(data: bytes, queue: str, accept: Collection[str], crashes: int = 0) -> dict[str, Any]:
    """A message that waits; one that is long or cannot be read is told of without its arguments."""
    if len(data) <= LONG:
        try:
            return described(message.decode(data, accept), queue, crashes)
        except DecodeError:
            return unread(message.id_of(data[message.KEY]), "?")
    task_id, name = message.peek(data)
    return unread(task_id or message.id_of(data[message.KEY]), name)


def scheduled(due_at: float, data: bytes, queue: str, accept: Collection[str]) -> dict[str, Any]:
    """A message that waits for its time."""
    told = waiting(data, queue, accept)
    eta = message.eta_of(data)
    # As the caller gave it, where the broker has rounded that.
    exact = eta if eta is not None and abs(eta - due_at) < _ROUNDED else due_at
    return {"eta": clock.moment(exact).isoformat(), "priority": 6, "request": told}
