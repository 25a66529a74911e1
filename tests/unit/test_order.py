"""In which order queues are looked into: shares over time, whatever the batches, and strict orders."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import Celeriac
from celeriac.exceptions import ImproperlyConfigured
from celeriac.wire import WorkerOptions
from celeriac.worker.order import Shares, Strict, order_of


def taken(order: Shares, messages: int, batch: Callable[[], int], there: set[str]) -> Counter[str]:
    """What came of each queue, where those `there` have any number of messages and the others none."""
    counts: Counter[str] = Counter()
    while counts.total() < messages:
        queue = next(queue for queue in order.first() if queue in there)
        count = batch()
        order.gave(queue, count)
        counts[queue] += count
    return counts


def conf(**settings: Any) -> Any:
    return Celeriac("order", broker="memory://order", set_as_current=False, **settings).conf


def test_every_queue_has_its_turn_within_a_round() -> None:
    order = Shares({"high": 3, "low": 1}, lambda: 0.0)
    firsts = [taken(order, 1, lambda: 1, {"high", "low"}).popitem()[0] for _ in range(12)]
    for begin in range(0, 12, 4):
        assert Counter(firsts[begin : begin + 4]) == {"high": 3, "low": 1}


@given(
    weights=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=2),
    largest=st.integers(1, 256),
    seed=st.integers(),
)
@settings(deadline=None)
def test_shares_are_kept_whatever_comes_at_once(weights: dict[str, int], largest: int, seed: int) -> None:
    chance = random.Random(seed)
    order = Shares(weights, chance.random)
    counts = taken(order, 100 * largest, lambda: chance.randint(1, largest), set(weights))
    for one, two in combinations(weights, 2):
        # As many for its weight as any other has, but for one batch of each and where they began.
        ahead = counts[one] / weights[one] - counts[two] / weights[two]
        assert abs(ahead) <= (largest + 1) * (1 / weights[one] + 1 / weights[two])


def test_the_share_of_an_empty_queue_goes_to_the_others_by_their_weights() -> None:
    order = Shares({"a": 10, "b": 2, "c": 1}, lambda: 0.5)
    assert taken(order, 300, lambda: 1, {"b", "c"}) == {"b": 200, "c": 100}


def test_an_empty_queue_saves_nothing_up() -> None:
    order = Shares({"a": 1, "b": 1}, lambda: 0.5)
    assert taken(order, 1000, lambda: 10, {"b"}) == {"b": 1000}
    counts = taken(order, 100, lambda: 1, {"a", "b"})
    # The last batch of `b` is made up for, and no more.
    assert 50 <= counts["a"] <= 60


@pytest.mark.parametrize("weights", [{"high": 3, "low": 1}, {"a": 1, "b": 1}, {"a": 6, "b": 3, "c": 1}])
def test_children_that_live_for_one_task_keep_the_shares(weights: Mapping[str, int]) -> None:
    chance = random.Random(1).random
    firsts = Counter(Shares(weights, chance).first()[0] for _ in range(10_000))
    for queue, weight in weights.items():
        assert firsts[queue] / 10_000 == pytest.approx(weight / sum(weights.values()), abs=0.03)


def test_a_strict_order_stays_as_it_is() -> None:
    order = Strict(["b", "a"])
    order.gave("b", 100)
    assert order.first() == ("b", "a")


def test_the_command_line_is_stronger_than_the_settings() -> None:
    def order(options: WorkerOptions, *queues: str, **transport: Any) -> Any:
        return order_of(conf(broker_transport_options=transport), options, queues or ("b", "a"))

    plain = WorkerOptions()
    assert order(plain) is None
    by_name = {"queue_order_strategy": "sorted"}
    assert order(plain, **by_name).first() == ("a", "b")
    assert order(plain, queue_order_strategy="priority").first() == ("b", "a")
    assert str(order(plain, queue_order_strategy="round_robin")) == "shares 1:1"
    assert order(WorkerOptions(queue_order="priority"), **by_name).first() == ("b", "a")
    assert str(order(WorkerOptions(weights={"b": 4}), **by_name)) == "shares 4:1"


@pytest.mark.parametrize("strategy", ["prioriti", 7, "kombu.utils.scheduling:priority_cycle", len])
def test_what_is_no_strategy_is_refused_by_name(strategy: Any) -> None:
    transport = {"queue_order_strategy": strategy}
    with pytest.raises(ImproperlyConfigured, match="one of round_robin, sorted, priority"):
        order_of(conf(broker_transport_options=transport), WorkerOptions(), ("a",))
