"""Broadcasts in an SQLite file: see `celeriac.brokers.abilities.Broadcasting`."""

from __future__ import annotations

from typing import Final

from celeriac import clock
from celeriac.brokers.sqlite_ledger import PATIENCE, QUERIES, Ledger, write
from celeriac.drivers.sqlite import SQLiteFile, translated
from celeriac.exceptions import BrokerRefused, BrokerUnavailable

#: The statements that delete what is in a queue, and the queue.
_FORGETTING: Final = tuple(name for name in QUERIES if name.startswith("empty_"))


class SQLiteBroadcasts:
    """The part of the SQLite broker that knows of broadcasts."""

    _file: SQLiteFile

    def subscribe(self, broadcast: str, queue: str, keep: float) -> None:
        write(self._file, lambda ledger: ledger.run("subscribe", broadcast, queue, ledger.now + keep))

    def subscribers(self, broadcast: str) -> list[str]:
        return self._until("subscribers", broadcast, clock.now())

    def forget_lapsed(self, broadcast: str, grace: float) -> list[str]:
        def work(ledger: Ledger) -> list[str]:
            lapsed = [queue for (queue,) in ledger.run("end_lapsed", broadcast, ledger.now - grace)]
            for queue in lapsed:
                for name in _FORGETTING:
                    ledger.run(name, queue)
            return lapsed

        # A look waits for nobody, and as a rule finds nothing.
        found = self._until("lapsed", broadcast, clock.now() - grace)
        return write(self._file, work) if found else []

    def _until(self, query: str, broadcast: str, moment: float) -> list[str]:
        with translated(self._file, BrokerUnavailable, BrokerRefused):
            return self._file.read(
                lambda connection: [
                    queue for (queue,) in connection.execute(QUERIES[query], (broadcast, moment))
                ],
                PATIENCE,
            )
