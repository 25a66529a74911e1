"""The lease keeper, with a broker that is away when the test says so."""

from __future__ import annotations

import threading

from celeriac import events
from celeriac.brokers.contract import Casualty, Pruned
from celeriac.exceptions import BrokerUnavailable
from celeriac.supervisor.leases import LeaseKeeper, Surrender, Terms

TERMS = Terms(("celery",), 0.3, 3)


class Ledger:
    """A broker that writes down what is asked of it, and raises while it is away."""

    place = "ledger://"

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.asked: list[tuple] = []
        self.away = False
        self.refusals = 0
        #: What each call of `prune_dead` deletes.
        self.prunable: list[Pruned] = []

    def _note(self, *asked) -> None:
        with self.changed:
            if self.away:
                self.refusals += 1
                self.changed.notify_all()
                raise BrokerUnavailable("away")
            self.asked.append(asked)
            self.changed.notify_all()

    def cautions(self):
        return []

    def renew(self, queues, owners, lease, max_deliveries):
        self._note("renew", tuple(owners))
        return list(owners)

    def surrender(self, queues, owner, casualties, verdicts, max_deliveries):
        self._note("surrender", owner, dict(casualties), dict(verdicts))
        return 1

    def prune_dead(self, queue, keep, lifetime):
        self._note("prune", queue, keep, lifetime)
        return self.prunable.pop() if self.prunable else Pruned()

    def close(self) -> None:
        self._note("close")

    def wait(self, condition) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 30.0), (self.asked, self.refusals)


def keeper_of(ledger: Ledger, terms: Terms = TERMS, given_up=lambda: None) -> LeaseKeeper:
    keeper = LeaseKeeper(ledger, terms, given_up)
    keeper.start()
    return keeper


def test_owners_are_renewed_again_and_again_even_if_unknown():
    ledger = Ledger()
    keeper = keeper_of(ledger)
    keeper.add("one")
    ledger.wait(lambda: ledger.asked.count(("renew", ("one",))) >= 3)
    assert keeper.close(30.0)


def test_a_surrender_is_done_at_once_and_its_owner_forgotten():
    ledger = Ledger()
    keeper = keeper_of(ledger, Terms(("celery",), 3600.0, 3))
    keeper.add("one")
    ledger.wait(lambda: ledger.asked)
    casualties = {b"k" * 16: Casualty("signal 9 (SIGKILL)", 1.0)}
    keeper.surrender(Surrender("one", casualties, {b"v" * 16: "time_limit:1"}))
    ledger.wait(lambda: ("surrender", "one", casualties, {b"v" * 16: "time_limit:1"}) in ledger.asked)
    assert keeper.close(30.0)


def test_a_surrender_waits_for_a_broker_that_is_away():
    ledger = Ledger()
    ledger.away = True
    keeper = keeper_of(ledger)
    keeper.surrender(Surrender("one"))
    ledger.wait(lambda: ledger.refusals >= 3)
    ledger.away = False
    ledger.wait(lambda: ("surrender", "one", {}, {}) in ledger.asked)
    ledger.wait(lambda: ("renew", ()) in ledger.asked)
    assert keeper.close(30.0)


def test_closing_does_what_is_left_first():
    ledger = Ledger()
    keeper = LeaseKeeper(ledger, TERMS, lambda: None)
    for number in range(3):
        keeper.surrender(Surrender(str(number)))
    keeper.start()
    assert keeper.close(30.0)
    assert [asked[1] for asked in ledger.asked if asked[0] == "surrender"] == ["0", "1", "2"]
    assert ledger.asked[-1] == ("close",)


def test_closing_gives_up_on_a_broker_that_is_away():
    ledger = Ledger()
    ledger.away = True
    keeper = keeper_of(ledger)
    keeper.surrender(Surrender("one"))
    assert not keeper.close(0.05)
    ledger.away = False
    assert keeper.close(30.0)


def test_a_broker_that_stays_away_is_given_up():
    ledger = Ledger()
    ledger.away = True
    given_up = threading.Event()
    keeper = keeper_of(ledger, Terms((), 0.3, 3, lost_timeout=0.1), given_up.set)
    assert given_up.wait(30.0)
    ledger.away = False
    assert keeper.close(30.0)


def test_a_broker_that_is_away_at_the_start_is_given_up_at_once_where_so_wished():
    ledger = Ledger()
    ledger.away = True
    given_up = threading.Event()
    keeper = keeper_of(ledger, Terms((), 0.3, 3, wait_at_start=False), given_up.set)
    assert given_up.wait(30.0) and ledger.refusals == 1
    ledger.away = False
    assert keeper.close(30.0)


def test_one_that_goes_away_later_is_not():
    ledger = Ledger()
    given_up = threading.Event()
    keeper = keeper_of(ledger, Terms((), 0.3, 3, wait_at_start=False), given_up.set)
    ledger.wait(lambda: ledger.asked)
    ledger.away = True
    ledger.wait(lambda: ledger.refusals >= 3)
    assert not given_up.is_set()
    ledger.away = False
    assert keeper.close(30.0)


def test_attempts_are_counted():
    ledger = Ledger()
    given_up = threading.Event()
    keeper = keeper_of(ledger, Terms((), 0.3, 3, retries=2), given_up.set)
    ledger.wait(lambda: ledger.asked)
    ledger.away = True
    assert given_up.wait(30.0) and ledger.refusals >= 3
    ledger.away = False
    assert keeper.close(30.0)


def test_the_condition_tells_for_how_long_the_broker_is_away():
    ledger = Ledger()
    keeper = LeaseKeeper(ledger, TERMS, lambda: None)
    assert keeper.condition().renewed is None and keeper.condition().away is None
    keeper.start()
    ledger.wait(lambda: len(ledger.asked) >= 2)
    assert (keeper.condition().renewed or 0.0) < TERMS.lease and keeper.condition().away is None
    ledger.away = True
    ledger.wait(lambda: ledger.refusals >= 2)
    assert keeper.condition().away is not None
    ledger.away = False
    ledger.wait(lambda: keeper.condition().away is None)
    assert keeper.close(30.0)


def test_closing_twice_or_before_the_start_is_harmless():
    keeper = LeaseKeeper(Ledger(), TERMS, lambda: None)
    assert keeper.close(0.1) and keeper.close(0.1)


def test_dead_letters_are_looked_at_less_often_than_leases_are_renewed():
    ledger = Ledger()
    keeper = keeper_of(ledger, Terms(("one", "two"), 0.3, 3, dead_max=7, dead_lifetime=60.0))
    ledger.wait(lambda: ledger.asked.count(("prune", "two", 7, 60.0)) >= 2)
    assert keeper.close(30.0)
    renewals = ledger.asked.count(("renew", ()))
    assert renewals >= 4
    assert ledger.asked[:3] == [("renew", ()), ("prune", "one", 7, 60.0), ("prune", "two", 7, 60.0)]


def test_dead_letters_go_in_steps_and_each_step_is_told():
    ledger, told = Ledger(), []
    events.BUS.listen(events.DeadLettersEvicted, told.append)
    oldest = bytes(16)
    ledger.prunable = [Pruned(0, 3, oldest), Pruned(5, 0, oldest, is_more=True)]
    keeper = keeper_of(ledger, Terms(("one",), 60.0, 3))
    ledger.wait(lambda: len(ledger.asked) >= 3)
    assert keeper.close(30.0)
    events.BUS.forget(events.DeadLettersEvicted, told.append)
    named = "00000000-0000-0000-0000-000000000000"
    assert told == [
        events.DeadLettersEvicted("one", 5, "age", named),
        events.DeadLettersEvicted("one", 3, "count", named),
    ]


def test_dead_letters_that_cannot_be_looked_at_cost_no_lease():
    class Refusing(Ledger):
        def prune_dead(self, queue, keep, lifetime):
            self._note("prune")
            raise BrokerUnavailable("no")

    ledger = Refusing()
    keeper = keeper_of(ledger)
    ledger.wait(lambda: ledger.asked.count(("renew", ())) >= 8)
    assert keeper.close(30.0)
    assert ledger.asked.count(("prune",)) <= 3
