"""What health probes are answered, as a function of values."""

from __future__ import annotations

import json

import pytest

from celeriac.supervisor.condition import (
    BrokerCondition,
    ChildCondition,
    Condition,
    RunCondition,
    answer,
    why_not_live,
    why_not_ready,
)

BROKER = BrokerCondition(place="redis://host/0", lease=30.0, renewed=3.0)


def worker(*children: ChildCondition, **fields) -> Condition:
    given = {"came_up": True, "broker": BROKER, "children": children or (ChildCondition(number=1, pid=5),)}
    return Condition(worker="w1@test", **(given | fields))


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (worker(), None),
        (worker(stopping=True), "stopping"),
        (worker(broker=None), "the application is being imported"),
        (worker(broker=BrokerCondition(place="x", lease=30.0)), "the broker has not answered yet"),
        (worker(broker=BrokerCondition(place="x", lease=30.0, renewed=31.0, away=12.4)), "broker away for 12 s"),
        (worker(broker=BrokerCondition(place="x", lease=30.0, renewed=31.0)),
         "leases have not been renewed for 31 s"),
        (worker(came_up=False), "children are starting"),
        (worker(ChildCondition(number=1, state="booting")), "no child is up"),
        (worker(ChildCondition(number=1, standby=True)), "no child is up"),
        (worker(ChildCondition(number=1, state="leaving")), None),
    ],
)  # fmt: skip
def test_why_a_worker_is_not_ready(condition: Condition, why: str | None):
    assert why_not_ready(condition) == why
    expected = (200, "ready") if why is None else (503, f"not ready: {why}")
    assert answer("/ready", False, condition) == expected


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (worker(stopping=True, broker=None, came_up=False), None),
        (worker(ChildCondition(number=1, pid=5, silence=19.0)), None),
        (worker(ChildCondition(number=3, pid=5, silence=31.2)), "child 3 has not come round for 31 s"),
        (worker(ChildCondition(number=3, silence=20.0)), "child 3 has not been forked for 20 s"),
        (worker(ChildCondition(number=3, pid=5, silence=20.0, killed=True)),
         "child 3 was killed and has not ended for 20 s"),
    ],
)  # fmt: skip
def test_why_a_worker_is_not_live(condition: Condition, why: str | None):
    assert why_not_live(condition) == why
    assert answer("/live", False, condition)[0] == (200 if why is None else 503)


def test_tasks_are_told_to_those_on_the_same_machine_only():
    condition = worker(ChildCondition(number=1, pid=5, runs=(RunCondition("id", "proj.add", 1.5),)))
    status, text = answer("/status", True, condition)
    assert status == 200
    assert json.loads(text)["condition"]["children"][0]["runs"][0]["name"] == "proj.add"
    assert answer("/status", False, condition)[0] == 403
    assert answer("/", True, condition)[0] == 404
