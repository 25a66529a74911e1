"""P15: priorities, states, limits and retries mean the same on every broker and in every pool."""

from __future__ import annotations

import pytest
from harness import WAIT, wait_until

from celeriac import states
from tests.guarantees.ground import Ground

POOLS = pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "asyncio"])

#: A task, its arguments and options -> its state, and what it ends with.
CALLS: list[tuple[str, tuple[object, ...], dict[str, object], str, object]] = [
    ("add", (1, 2), {}, states.SUCCESS, 3),
    ("sums_later", (1, 2), {}, states.SUCCESS, 3),
    ("fails", ("no",), {}, states.FAILURE, "ValueError"),
    ("fails_later", (), {}, states.FAILURE, "OutOfStock"),
    ("never_succeeds", (True,), {}, states.FAILURE, "OutOfStock"),
    ("never_succeeds", (), {}, states.FAILURE, "MaxRetriesExceededError"),
    ("autoretries", (), {}, states.FAILURE, "OutOfStock"),
    ("rejects", (), {}, states.FAILURE, "Reject"),
    ("rejects", (True,), {}, states.SUCCESS, "accepted"),
    ("exits", (), {}, states.FAILURE, "SystemExit"),
    ("ignores", (), {}, states.PENDING, None),
    ("add", (1, 2), {"expires": -1}, states.REVOKED, "TaskRevokedError"),
    ("sleeps", (20,), {"time_limit": 0.4}, states.FAILURE, "TimeLimitExceeded"),
    ("spins", (20,), {"soft_time_limit": 0.4}, states.FAILURE, "SoftTimeLimitExceeded"),
    ("dies_and_fails", (), {}, states.FAILURE, "WorkerLostError"),
]


@POOLS
def test_p15_states_are_the_same_everywhere(ground: Ground, pool: str):
    ground.worker("-P", pool, "-c", "1")
    results = [ground.call(name, *args, **options) for name, args, options, _, _ in CALLS]
    ground.wait_empty()
    ended = []
    for (name, args, options, _, _), result in zip(CALLS, results, strict=True):
        value = result.result
        shown = type(value).__name__ if isinstance(value, BaseException) else value
        ended.append((name, args, options, result.state, shown))
    assert ended == CALLS


@POOLS
def test_p15_a_higher_priority_runs_first_and_equals_in_order(ground: Ground, pool: str):
    order = [(n, priority) for n, priority in enumerate([0, 9, 3, 3, 0, 9, 5, 1])]
    results = {ground.call("plain", n, priority=priority).id: n for n, priority in order}
    ground.worker("-P", pool, "-c", "1")
    wait_until(lambda: len(ground.notes(what="plain")) == len(order), ground.told, WAIT)
    ran = [results[note["id"]] for note in ground.notes(what="plain")]
    assert ran == [n for n, _ in sorted(order, key=lambda one: -one[1])]
