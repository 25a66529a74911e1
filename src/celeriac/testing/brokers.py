"""The contract of a broker, as tests: every sentence of `celeriac.brokers.contract` that can fail.

Subclass `BrokerContract` in a test module and supply the fixture `make_broker`. The parts are in modules of
their own: what is sent is taken (`broker_flow`), deliveries end once (`broker_settling`), runs that
have begun are not repeated (`broker_commits`), owners die
(`broker_leases`), people look and tidy (`broker_upkeep`), revoke what is not to run (`broker_revoking`) and tell
those who listen (`broker_notices`). What is transient is like any other as long as the broker lives
(`broker_transience`).

A broker with an ability (`celeriac.brokers.abilities`) has the suite of that as well: `Searchable` that of
`broker_searching`, `Limiting` that of `broker_room`, `Movable` that of `broker_moving`, `Broadcasting` that of
`broker_broadcasts`; `Foretells` is asked for in `broker_upkeep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celeriac.brokers.contract import Broker
from celeriac.testing.broker_commits import Commits
from celeriac.testing.broker_flow import Flow
from celeriac.testing.broker_leases import Leases
from celeriac.testing.broker_notices import Notices
from celeriac.testing.broker_revoking import Revoking
from celeriac.testing.broker_settling import Settling
from celeriac.testing.broker_transience import Transience
from celeriac.testing.broker_upkeep import Upkeep
from celeriac.testing.stand import Stand


class BrokerFixtures:
    """What the suites need of a broker."""

    @pytest.fixture
    def make_broker(self) -> Callable[[], Broker]:
        """Makes one more connection to the same place at each call; the suite closes what it makes."""
        raise NotImplementedError("supply a fixture make_broker: a function that connects to your broker")

    @pytest.fixture
    def stand(self, make_broker: Callable[[], Broker]) -> Iterator[Stand]:
        stand = Stand(make_broker)
        yield stand
        stand.close()


class BrokerContract(BrokerFixtures, Flow, Settling, Commits, Leases, Upkeep, Revoking, Notices, Transience):
    """What every broker does. A subclass supplies `make_broker`."""

    #: Whether a forked child reaches the same messages; False for a broker that lives in its process.
    forks = True
    #: How many seconds two takes need that wait for one another's messages.
    woken_within = 0.5
