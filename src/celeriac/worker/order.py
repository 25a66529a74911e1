"""In which order a child looks into its queues, where the command line or the settings say so: strictly, or by shares.

Values without a clock or a connection: `first` is what the next take is to be told, `gave` is what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celeriac import clock
from celeriac.exceptions import ImproperlyConfigured
from celeriac.plugins import nearest
from celeriac.wire import QUEUE_ORDERS, WorkerOptions


class Strict:
    """Always the same: a queue has its messages taken only while those before it have none."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = tuple(queues)

    def __str__(self) -> str:
        return "strictly: " + " before ".join(self._queues)

    def first(self) -> Sequence[str]:
        """All queues, in the order in which the next take is to look into them."""
        return self._queues

    def gave(self, queue: str, count: int) -> None:
        """So many messages came of that queue; those before it in the order had none."""


class Shares:
    """While all queues have messages, each gives so many as its weight says of all weights together.

    Stride scheduling (Waldspurger and Weihl, MIT/LCS/TM-528, 1995): each queue has come so far on its way, a message
    is a step of 1 / weight, and the one that is behind is next. One that had nothing when it was looked into catches
    up with the one that gave: its share went to the others, and it saves nothing up.

    The first is drawn, with the weights as odds, and the others begin within a step of it: so the shares are kept by
    children, too, who live for one task each.
    """

    def __init__(self, weights: Mapping[str, int], chance: Callable[[], float] = clock.chance) -> None:
        """`weights`: whole numbers, 1 or more, by queue. `chance`: a number from 0 to below 1 at each call."""
        self._weights = dict(weights)
        self._ways = {queue: chance() / weight for queue, weight in weights.items()}
        drawn = chance() * sum(weights.values())
        for queue, weight in weights.items():
            drawn -= weight
            if drawn < 0:
                self._ways[queue] = 0.0
                break

    def __str__(self) -> str:
        return "shares " + ":".join(map(str, self._weights.values()))

    def first(self) -> Sequence[str]:
        """As `Strict.first`."""
        return sorted(self._ways, key=self._ways.__getitem__)

    def gave(self, queue: str, count: int) -> None:
        """As `Strict.gave`."""
        ways, there = self._ways, self._ways[queue]
        for other, way in ways.items():
            ways[other] = max(way, there)
        ways[queue] = there + count / self._weights[queue]


Order = Strict | Shares


def order_of(conf: Any, options: WorkerOptions, queues: Sequence[str]) -> Order | None:
    """How a worker with these options looks into its queues. None: as suits the broker.

    The command line is stronger than `broker_transport_options`. A queue without a weight beside others that have one
    has weight 1.

    Raises: ImproperlyConfigured: a `queue_order_strategy` that is not known.
    """
    if options.weights:
        return Shares({queue: options.weights.get(queue, 1) for queue in queues})
    strategy = options.queue_order or conf.broker_transport_options.get("queue_order_strategy")
    if strategy is None:
        return None
    if strategy not in QUEUE_ORDERS:
        hint = nearest(strategy, QUEUE_ORDERS) if isinstance(strategy, str) else ""
        raise ImproperlyConfigured(
            f"'queue_order_strategy' of 'broker_transport_options' is one of {', '.join(QUEUE_ORDERS)}, "
            f"not {strategy!r}; what else kombu takes does not exist here.{hint}"
        )
    if strategy == "round_robin":
        return Shares(dict.fromkeys(queues, 1))
    return Strict(sorted(queues) if strategy == "sorted" else queues)
