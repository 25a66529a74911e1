"""Sending to one of several brokers: the first choice, or another while that does not answer.

Loaded by name, where `broker_url` is a list. Workers do not send here what follows a run: that goes with the
settlement, to the broker that the message came from.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from celeriac import clock
from celeriac.brokers.abilities import Limiting
from celeriac.brokers.contract import Broker, Outgoing
from celeriac.brokers.relay import connect_all
from celeriac.exceptions import BrokerUnavailable, OperationalError

#: Seconds after which the first choice is tried again, and the part of a send's time that this may take.
LOOK_BACK: Final = 30.0
_LOOK: Final = 0.25
#: A try needs so many seconds at least.
_LEAST: Final = 0.01

#: `broker_failover_strategy`: a word, or a function of the URLs, which gives them in the order of trying.
Strategy = str | None | Callable[[list[str]], Iterable[str]]


class Failover:
    """Sends to the broker that is in use; to another where that fails, which is in use then. Safe for threads."""

    def __init__(self, places: Sequence[tuple[str, Mapping[str, Any]]], strategy: Strategy) -> None:
        """`strategy`: the others are tried in their order, at random (`shuffle`), or in that of a function.

        Raises: see `connect_all`.
        """
        self._urls = [url for url, _ in places]
        self._brokers = connect_all(places)
        self._strategy = strategy
        self._first = self._used = 0
        self._look_back_at = 0.0

    @property
    def all(self) -> Sequence[Broker]:
        """All of them, in the order of the list."""
        return self._brokers

    @property
    def in_use(self) -> Broker:
        """The broker that was sent to last."""
        return self._brokers[self._used]

    @property
    def place(self) -> str:
        return self.in_use.place

    def prefer(self, index: int) -> None:
        """This one is the first choice from now on."""
        self._first = self._used = index

    def reach(self) -> None:
        """Use the first that answers a question; none does: nothing changes."""
        for index in self._candidates():
            with contextlib.suppress(OperationalError):
                self._brokers[index].queues()
                self._use(index)
                return

    def send(self, batch: Sequence[Outgoing], timeout: float) -> None:
        """As `Broker.send`. A try whose fate is unknown may have stored it too: then it is stored at two brokers."""
        self._try(lambda broker, left: broker.send(batch, left), timeout)

    def send_limited(self, batch: Sequence[Outgoing], most: Mapping[str, int], timeout: float) -> None:
        """As `Limiting.send_limited`, where each broker counts for itself."""
        self._try(lambda broker, left: cast("Limiting", broker).send_limited(batch, most, left), timeout)

    def close(self) -> None:
        """Close the connections to all of them. Idempotent."""
        for broker in self._brokers:
            broker.close()

    def _try(self, send: Callable[[Broker, float], None], timeout: float) -> None:
        deadline = clock.monotonic() + timeout
        failures: list[str] = []
        used = self._used
        for place, index in enumerate(self._candidates()):
            left = deadline - clock.monotonic()
            if left < _LEAST:
                break
            # Each has the same part of what is left; one that has failed before, and is tried before the others, less.
            part = _LOOK if place == 0 and index != used else 1 / max(1, len(self._brokers) - place)
            try:
                send(self._brokers[index], left * part)
            except BrokerUnavailable as exc:
                failures.append(str(exc))
            else:
                self._use(index)
                return
        raise BrokerUnavailable(f"no broker of the list: {'; '.join(failures)}")

    def _use(self, index: int) -> None:
        if index != self._used:
            self._used, self._look_back_at = index, clock.monotonic() + LOOK_BACK

    def _candidates(self) -> Iterator[int]:
        """In which order they are tried now: the one that is in use, then the others, each once."""
        first, used = self._first, self._used
        known: set[int] = set()
        if used != first and clock.monotonic() >= self._look_back_at:
            # Not by every thread at once.
            self._look_back_at = clock.monotonic() + LOOK_BACK
            known.add(first)
            yield first
        if used not in known:
            known.add(used)
            yield used
        for index in self._others(used):
            if index not in known:
                known.add(index)
                yield index

    def _others(self, used: int) -> list[int]:
        count = len(self._brokers)
        following = [(used + step) % count for step in range(1, count)]
        if self._strategy == "shuffle":
            random.shuffle(following)
        elif callable(self._strategy):
            # As with kombu it may go on for ever; what it leaves out comes last.
            given = itertools.islice(self._strategy(list(self._urls)), 4 * count)
            return [self._urls.index(url) for url in given if url in self._urls] + following
        return following
