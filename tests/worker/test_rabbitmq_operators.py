"""What somebody who operates a RabbitMQ server may do under those who use it: close connections, delete queues."""

from __future__ import annotations

import pytest
from harness import WAIT, Site, wait_until
from tests.private_rabbitmq import PrivateRabbit

pytestmark = [pytest.mark.private_rabbitmq, pytest.mark.timeout(240)]


@pytest.fixture
def site(private_rabbit: Site) -> Site:
    return private_rabbit


def delete(server: PrivateRabbit, site: Site, part: str) -> int:
    """Delete all queues of the virtual host whose name has that in it; how many there were."""
    host = site.url.rpartition("/")[2].partition("?")[0]
    told = server.evaluate(
        f'length([rabbit_amqqueue:delete(Q, false, false, <<"operator">>) || Q <- rabbit_amqqueue:list(<<"{host}">>), '
        f'string:find(element(4, amqqueue:get_name(Q)), <<"{part}">>) /= nomatch]).'
    )
    return int(told)


def test_connections_that_are_closed_cost_no_run(site: Site, rabbitmq_server: PrivateRabbit):
    worker = site.worker("-c", "2")
    running = site.send("holds", "gate")
    site.wait_note(running, "start")
    results = [site.send("plain", number) for number in range(100)]
    for count in (20, 40, 60):
        site.wait_note(None, "plain", count)
        rabbitmq_server.hang_up()
    wait_until(lambda: len(site.notes(what="plain")) >= len(results), site.told)
    rabbitmq_server.hang_up()
    site.open("gate")
    running.get(timeout=WAIT)
    wait_until(lambda: site.stats().ready == 0, site.told)
    assert worker.stop() == 0
    assert sorted(note["id"] for note in site.notes(what="plain")) == sorted(one.id for one in results)
    assert len(site.notes(running, "start")) == 1
    assert "Traceback" not in worker.log()


def test_a_holding_that_is_deleted_ends_the_lease_and_nothing_else(
    site: Site, rabbitmq_server: PrivateRabbit
):
    worker = site.worker("-c", "1")
    running = site.send("holds", "gate")
    site.wait_note(running, "start")
    assert delete(rabbitmq_server, site, "~held~") > 0
    site.open("gate")
    site.wait_note(running, "end")
    assert site.send("add", 1).get(timeout=WAIT) == 2
    assert worker.stop() == 0
    assert len(site.notes(running, "start")) == 1
