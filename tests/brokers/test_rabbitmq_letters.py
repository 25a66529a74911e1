"""Dead letters at RabbitMQ: more of them than the server gives anybody at once."""

from __future__ import annotations

from contextlib import closing

import pytest

from celeriac import brokers, clock, urls
from celeriac.brokers import rabbitmq_seizing
from celeriac.brokers.rabbitmq_names import DEAD, Envelope, wrap
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import Address
from celeriac.testing.stand import message, name_of
from tests import rabbitmq

pytestmark = rabbitmq.MARKS

QUEUE = "letters"


def bury(place: str, count: int) -> None:
    address = Address(urls.parse(place), {})
    letter = Envelope(queue=QUEUE, reason="why", died_at=clock.now())
    posts = [Post(QUEUE, DEAD, wrap(message(str(number)), letter)) for number in range(count)]
    with closing(Connection(address, 60.0)) as connection:
        routes = Routes(address)
        for start in range(0, count, 5_000):
            routes.send(connection, posts[start : start + 5_000])


@pytest.mark.parametrize("kind", ["rabbitmq_place", "rabbitmq_classic_place"])
def test_the_oldest_of_very_many_can_be_looked_at_and_tidied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With fewer than the 65,535 of the server, which would take minutes."""
    place, most = request.getfixturevalue(kind), 50
    monkeypatch.setattr(rabbitmq_seizing, "MOST_UNACKED", most)
    bury(place, 3 * most)
    with closing(brokers.connect(place)) as broker:
        first, second = broker.dead(QUEUE, limit=2)
        assert [name_of(letter.data) for letter in (first, second)] == ["0", "1"]
        assert broker.replay(QUEUE, [second.key]) == 1
        pruned = broker.prune_dead(QUEUE, most, None, 20)
        assert (pruned.surplus, pruned.oldest, pruned.is_more) == (20, first.key, True)
        assert [name_of(letter.data) for letter in broker.dead(QUEUE, limit=1)] == ["21"]
