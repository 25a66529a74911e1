"""Queues with a greatest length: sends that would not fit are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from celeriac.brokers.abilities import Limiting
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.exceptions import ImproperlyConfigured, QueueFull


class Limited:
    """The way to send to a broker where some queues have a greatest length."""

    def __init__(self, broker: Broker, most: Mapping[str, int]) -> None:
        """Raises: ImproperlyConfigured: the broker cannot count and send in one step."""
        if not isinstance(broker, Limiting):
            raise ImproperlyConfigured(
                f"'task_queues' gives {next(iter(most))!r} a max_length, which is not kept at {broker.place}"
            )
        self._broker = broker
        self._limiting: Limiting = broker
        self._most = most

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        """As `Broker.send`. Raises: QueueFull."""
        if any(one.queue in self._most for one in batch):
            self._limiting.send_limited(batch, self._most, timeout)
        else:
            self._broker.send(batch, timeout)


def check(batch: Sequence[Outgoing], most: Mapping[str, int], waiting: Callable[[str], int]) -> None:
    """Whether all of the batch fits, where `waiting` says how many wait in a queue. Raises: QueueFull"""
    for queue, count in Counter(one.queue for one in batch if one.queue in most).items():
        if waiting(queue) + count > most[queue]:
            raise full(queue, most[queue])


def full(queue: str, most: int) -> QueueFull:
    """The error for a queue in which so many wait."""
    return QueueFull(
        f"the queue {queue!r} is full: its max_length is {most:,}. Nothing was stored, nothing dropped"
    )
