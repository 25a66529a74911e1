"""How many messages are taken at once, as a function of run times."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celeriac.worker.batch import LARGEST, LONG, BatchSize, size


def grown(batch: BatchSize, *, free: int = 1) -> int:
    """What it comes to after many takes."""
    for _ in range(20):
        batch.limit(free)
    return batch.limit(free)


@pytest.mark.parametrize(
    ("mean", "surprises", "expected"),
    [
        (None, 0.0, 1),  # nothing is known yet
        (0.00002, 0.0, 256),
        (0.002, 0.0, 25),
        (0.03, 0.0, 1),
        (LONG, 0.0, 1),
        (0.0, 0.0, 256),
        (0.0002, 0.05, 1),  # one in twenty is long: it would be in most batches
        (0.0002, 0.01, 2),
        (0.0002, 0.001, 11),
        (0.0002, 5e-324, 250),
    ],
)
def test_the_size_of_a_batch(mean: float | None, surprises: float, expected: int) -> None:
    assert size(mean, surprises, LARGEST) == expected


def test_a_batch_is_no_larger_than_its_ceiling() -> None:
    assert size(0.0002, 0.0, 4) == 4


def test_the_first_batch_is_one_message_and_the_next_ones_grow_twofold() -> None:
    batch = BatchSize(1)
    assert batch.limit(1) == 1
    batch.observe("a", 0.0001)
    assert [batch.limit(1) for _ in range(9)] == [2, 4, 8, 16, 32, 64, 128, 256, 256]


def test_each_free_slot_gets_its_share() -> None:
    batch = BatchSize(10)
    batch.observe("a", 0.01)
    assert grown(batch, free=10) == 50
    assert batch.limit(3) == 15
    assert batch.limit(0) == 0


def test_a_batch_for_many_slots_is_no_larger_than_a_round_trip_is_worth() -> None:
    batch = BatchSize(100)
    batch.observe("a", 0.0001)
    assert grown(batch, free=100) == LARGEST
    assert BatchSize(1000).limit(1000) == 1000


def test_large_messages_come_few_at_a_time() -> None:
    batch = BatchSize(1)
    batch.observe("a", 0.0001)
    batch.weigh(100)
    assert grown(batch) == 256
    batch.weigh(100_000)
    assert batch.limit(1) == 10
    batch.weigh(5_000_000)
    assert batch.limit(1) == 1
    for _ in range(100):
        batch.weigh(100)
    assert batch.limit(1) == 256


def test_long_tasks_are_taken_one_for_each_free_slot() -> None:
    batch = BatchSize(4)
    batch.observe("a", 0.5)
    assert grown(batch, free=4) == 4
    assert batch.limit(1) == 1


def test_what_was_given_back_makes_the_next_batch_smaller() -> None:
    batch = BatchSize(1)
    batch.observe("a", 0.0001)
    assert grown(batch) == 256
    batch.cut(3)
    assert [batch.limit(1) for _ in range(3)] == [6, 12, 24]
    batch.cut(0)
    assert batch.limit(1) == 1


def test_a_name_is_known_for_long_runs_when_they_are_the_rule() -> None:
    batch = BatchSize(1)
    assert not batch.is_long("report")
    batch.observe("report", 30.0)
    assert batch.is_long("report") and not batch.is_long("a")
    for _ in range(5):
        batch.observe("report", 0.001)
    assert not batch.is_long("report")


def mixed(name: Callable[[bool], str]) -> BatchSize:
    """What is known after a thousand runs, of which every twentieth takes two seconds."""
    batch = BatchSize(1)
    for number in range(1, 1001):
        is_long = number % 20 == 0
        batch.observe(name(is_long), 2.0 if is_long else 0.0001)
    for _ in range(19):
        batch.observe(name(False), 0.0001)
    return batch


def test_long_runs_under_a_name_of_their_own_leave_short_ones_their_batches() -> None:
    batch = mixed(lambda is_long: "report" if is_long else "ping")
    assert batch.is_long("report") and not batch.is_long("ping")
    assert grown(batch) > 10


def test_long_runs_that_no_name_foretells_make_batches_small() -> None:
    batch = mixed(lambda is_long: "anything")
    assert not batch.is_long("anything")
    assert grown(batch) == 1


def test_one_long_run_is_forgotten_after_a_thousand_short_ones() -> None:
    batch = BatchSize(1)
    batch.observe("a", 5.0)
    for _ in range(50):
        batch.observe("a", 0.0001)
    assert grown(batch) < 10
    for _ in range(2000):
        batch.observe("a", 0.0001)
    assert grown(batch) == LARGEST


@pytest.mark.parametrize(
    ("multiplier", "free", "expected"), [(1, 2, 2), (4, 4, 16), (4, 1, 13), (4, 0, 0), (0, 4, 256)]
)
def test_a_number_of_the_settings_is_kept_whatever_runs_take(
    multiplier: int, free: int, expected: int
) -> None:
    batch = BatchSize(4, multiplier)
    batch.observe("a", 0.0001)
    assert batch.limit(free) == expected
