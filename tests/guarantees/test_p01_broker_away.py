"""P1 while a Redis or RabbitMQ server is away, in every way that it can be: a send raises in time, the last as the
first."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from workload import make_app

from celeriac.exceptions import BrokerRefused, BrokerUnavailable, OperationalError
from tests.guarantees import outages, rabbitmq_outages
from tests.guarantees.ground import SLACK, elapsed
from tests.guarantees.outages import Wire
from tests.guarantees.rabbitmq_outages import RabbitWire

TIMEOUT = 0.2
#: The same where the first send makes a queue, in some ten steps.
PATIENT = 1.5
SENDS = 5


def told_within(seconds: float, task: Any, kind: type[OperationalError]) -> list[str]:
    """What some sends of a task raise, each within that time."""
    errors: list[str] = []
    for _ in range(SENDS):
        started = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            task.delay(1)
        assert type(caught.value) is kind, caught.value
        assert elapsed(started) < seconds
        errors.append(str(caught.value))
    return errors


@pytest.mark.private_rabbitmq
@pytest.mark.parametrize("name", rabbitmq_outages.ALL)
@pytest.mark.parametrize("wire", ["rabbitmq"], indirect=True)
def test_p01_a_send_to_rabbitmq_raises_in_time_and_says_why(wire: RabbitWire, name: str):
    outage, told = rabbitmq_outages.ALL[name]
    kind = BrokerRefused if name in rabbitmq_outages.REFUSALS else BrokerUnavailable
    with make_app(wire.url, broker_publish_timeout=20.0) as patient:
        patient.tasks["workload.add"].delay(1)
    with make_app(wire.url, broker_publish_timeout=PATIENT) as app:
        task = app.tasks["workload.add"]
        task.delay(1)
        with outage(wire):
            # Neither does one of its steps after the other take as long as they all may.
            errors = told_within(PATIENT + 1.0, task, kind)
            assert any(re.search(told, text) for text in errors), errors
        with make_app(wire.url, broker_publish_timeout=20.0) as patient:
            patient.tasks["workload.add"].delay(1)
            stored = patient.broker.stats("celery").ready
    # Where the answer was lost, what raised may be stored all the same; so may what was on its way as an alarm began.
    lost = {"memory": 1, "disk": 1}.get(name, 2 * SENDS if name in rabbitmq_outages.SILENCES else 0)
    assert 3 <= stored <= 3 + lost


@pytest.mark.parametrize("name", outages.ALL)
def test_p01_a_send_raises_in_time_and_says_why(wire: Wire, name: str):
    outage, told = outages.ALL[name]
    kind = BrokerRefused if name in outages.REFUSALS else BrokerUnavailable
    with make_app(wire.url, broker_publish_timeout=TIMEOUT) as app:
        task = app.tasks["workload.add"]
        app.broker.purge("celery")
        task.delay(1)
        with outage(wire):
            errors = told_within(TIMEOUT + SLACK, task, kind)
            # On a busy machine the last of several tries may have had no time for its answer.
            assert any(re.search(told, text) for text in errors), errors
        task.apply_async((1,))
        stored = app.broker.stats("celery").ready
        # Where the answer was lost, what raised may be stored all the same.
        assert stored == 2 or (name in outages.SILENCES and 2 < stored <= 2 + SENDS)


def test_p01_a_send_outlasts_a_moment_of_it(wire: Wire):
    outage, _ = outages.STATES["full"]
    with make_app(wire.url, broker_publish_timeout=10.0) as app, ThreadPoolExecutor(1) as other:
        app.broker.purge("celery")
        with outage(wire):
            sent = other.submit(app.tasks["workload.add"].delay, 1)
            with pytest.raises(TimeoutError):
                sent.result(0.5)
        sent.result(10.0 + SLACK)
        assert app.broker.stats("celery").ready == 1


def test_p01_a_server_that_forgets_its_scripts_stores_on(wire: Wire):
    with make_app(wire.url, broker_publish_timeout=TIMEOUT) as app:
        app.broker.purge("celery")
        app.tasks["workload.add"].delay(1)
        with outages.forgetting(wire):
            app.tasks["workload.add"].delay(1)
        assert app.broker.stats("celery").ready == 2
