"""What an application has open: the broker, where its worker reads, and the result store.

Each is opened when it is asked for first, and anew where the settings have changed since.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

from celeriac import brokers, connections, plugins, results
from celeriac.backend import Backend
from celeriac.brokers.contract import Broker
from celeriac.connections import Opened
from celeriac.results.disabled import DisabledResults


class Openings:
    """Opens no connection: the first verb of a broker or a store does. Safe to use from several threads."""

    def __init__(self, conf: Any) -> None:
        self._conf = conf
        self._lock = threading.RLock()
        self._open: dict[str, Opened] = {}
        #: At which broker of a list this process takes messages.
        self._post = 0

    @property
    def sender(self) -> Any:
        """What sends: a broker, or what chooses one of several."""
        return self._opened("broker")

    @property
    def broker(self) -> Broker:
        """The broker; of several, the one that is in use."""
        sender = self.sender
        return cast("Broker", getattr(sender, "in_use", sender))

    @property
    def brokers(self) -> Sequence[Broker]:
        """The broker, or all of several."""
        sender = self.sender
        return cast("Sequence[Broker]", getattr(sender, "all", (sender,)))

    def reach(self) -> None:
        """Of several brokers, use one that answers, where there is one: what is asked of it next does not send."""
        if reach := getattr(self.sender, "reach", None):
            reach()

    @property
    def reader(self) -> Broker:
        """Where workers take messages; of several, where this one does."""
        return cast("Broker", self._opened("reader"))

    @property
    def backend(self) -> Backend:
        """The result store."""
        return cast("Backend", self._opened("result store"))

    def work_at(self, post: int) -> None:
        """From now on the broker of that number in the list is the one to read from, and the first to send to."""
        with self._lock:
            self._post = post
            self._open.pop("reader", None)
            if hasattr(self.sender, "prefer") and self._reads_where_it_sends():
                self.sender.prefer(post)

    def close(self) -> None:
        """Close all connections. Idempotent; a later call opens new ones."""
        for opened in list(self._open.values()):
            opened.thing.close()

    def _reads_where_it_sends(self) -> bool:
        return connections.of_place(self._conf, "reader") == connections.of_place(self._conf, "broker")

    def _opened(self, what: str) -> Any:
        """What is open already, or opened now: also where the settings have changed since."""
        known = self._open.get(what)
        if known is not None and known.version == self._conf.version:
            return known.thing
        with self._lock:
            version, known = self._conf.version, self._open.get(what)
            places = connections.of_place(self._conf, what)
            if what == "reader":
                if self._reads_where_it_sends():
                    return self.brokers[self._post] if len(places) > 1 else self.sender
                places = [places[self._post]]
            if known is None or known.places != places:
                if known is not None:
                    known.thing.close()
                known = Opened(version, places, self._open_now(what, places))
            self._open[what] = known._replace(version=version)
            return known.thing

    def _open_now(self, what: str, places: Any) -> Any:
        if what == "result store":
            return Backend(results.connect(*places[0]) if places else DisabledResults(), self._conf)
        if len(places) == 1:
            return brokers.connect(*places[0])
        # Loaded when it is needed: few applications have several brokers.
        failover = plugins.own("celeriac.brokers.failover:Failover")
        return failover(places, self._conf.broker_failover_strategy)
