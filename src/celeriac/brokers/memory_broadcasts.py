"""Broadcasts in memory: see `celeriac.brokers.abilities.Broadcasting`."""

from __future__ import annotations

from celeriac import clock
from celeriac.drivers.memory import Space
from celeriac.exceptions import BrokerRefused


class MemoryBroadcasts:
    """The part of the memory broker that knows of broadcasts."""

    _space: Space

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        self._space.check_process(BrokerRefused)
        with self._space.changed:
            self._space.subscriptions.setdefault(broadcast, {})[queue] = clock.now() + keep

    def subscribers(self, broadcast: str) -> list[str]:
        self._space.check_process(BrokerRefused)
        now = clock.now()
        with self._space.changed:
            known = self._space.subscriptions.get(broadcast, {})
            return sorted(queue for queue, until in known.items() if until > now)

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        self._space.check_process(BrokerRefused)
        before = clock.now() - grace
        with self._space.changed:
            known = self._space.subscriptions.get(broadcast, {})
            lapsed = [queue for queue, until in known.items() if until <= before]
            for queue in lapsed:
                del known[queue]
                self._space.queues.pop(queue, None)
            return lapsed
