"""What a supervisor's listener hears, answers and looks up, on a broker in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from celeriac import brokers, clock, notices
from celeriac.brokers.contract import Broker, Revocation
from celeriac.notices import Ask, Revoke
from celeriac.supervisor.listener import Heard, Missed, NoticeListener

KEY, OTHER = b"k" * 16, b"o" * 16
SOON = 10.0


class Loop:
    """What the main loop does with a listener."""

    def __init__(self, broker: Broker) -> None:
        self.woken = threading.Event()
        self.listener = NoticeListener(broker, ["celery", "letters"], "w1@test", self.woken.set)

    def hear(self) -> list[Heard]:
        """What comes next."""
        assert self.woken.wait(SOON)
        self.woken.clear()
        return list(self.listener.take())


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = brokers.connect("memory://listener")
    yield made
    made.close()


@pytest.fixture
def loop(broker: Broker) -> Iterator[Loop]:
    loop = Loop(broker)
    loop.listener.start()
    # It cannot know what was said before it listened.
    assert loop.hear() == [Missed()]
    yield loop
    loop.listener.close(SOON)


def tell(broker: Broker, notice: object) -> None:
    broker.notify(notices.WORKERS, notices.encode(notice))


def test_it_hears_what_is_meant_for_its_worker(broker: Broker, loop: Loop):
    tell(broker, Revoke(keys=(OTHER,), keep=1.0, destination=("w2@test",)))
    broker.notify(notices.WORKERS, b"from a later version")
    mine = Revoke(keys=(KEY,), keep=1.0, terminate=True, destination=("w1@test",))
    tell(broker, mine)
    assert loop.hear() == [mine]
    to_all = Ask(reply="reply.1")
    tell(broker, to_all)
    assert loop.hear() == [to_all]


def test_it_remembers_for_a_time_what_ended_where_it_waited(broker: Broker, loop: Loop):
    tell(broker, Revoke(keys=(), ended=(OTHER,), keep=-1.0))
    tell(broker, Revoke(keys=(), ended=(KEY,), keep=60.0))
    while KEY not in loop.listener.ended():
        loop.hear()
    assert loop.listener.ended() == [KEY]
    many = [n.to_bytes(16, "big") for n in range(notices.MOST_ENDED)]
    for at in range(0, len(many), notices.MOST_KEYS):
        tell(broker, Revoke(keys=(), ended=tuple(many[at : at + notices.MOST_KEYS]), keep=60.0))
    while many[-1] not in loop.listener.ended():
        loop.hear()
    assert loop.listener.ended() == many


def test_an_answer_goes_to_who_asked(broker: Broker, loop: Loop):
    ear = broker.listen(["reply.1"])
    loop.listener.answer("reply.1", {"fine": True})
    ((name, data),) = ear.wait(SOON)
    assert (name, notices.read_answer(data)) == ("reply.1", notices.Answer("w1@test", {"fine": True}))
    ear.close()


def test_of_what_runs_it_looks_up_what_is_to_be_ended(broker: Broker, loop: Loop):
    mild, strange = b"m" * 16, b"s" * 16
    broker.revoke("celery", [Revocation(mild), Revocation(strange, True)], 60.0)
    broker.revoke("letters", [Revocation(KEY, True, "SIGKILL")], 60.0)
    loop.listener.check(frozenset({mild, KEY}))
    (found,) = loop.hear()
    assert isinstance(found, Revoke)
    assert (found.keys, found.terminate, found.signal) == ((KEY,), True, "SIGKILL")


def test_more_than_the_loop_can_take_waits_for_it(broker: Broker, loop: Loop):
    for _ in range(500):
        tell(broker, Revoke(keys=(KEY,), keep=1.0))
    until, most, count = clock.monotonic() + SOON, 0, 0
    while count < 500 and clock.monotonic() < until:
        if loop.woken.wait(0.1):
            loop.woken.clear()
            heard = list(loop.listener.take())
            most, count = max(most, len(heard)), count + len(heard)
    assert count == 500 and most < 200


def test_closing_before_the_start_or_twice_is_harmless(broker: Broker):
    listener = Loop(broker).listener
    listener.close(SOON)
    listener.close(SOON)
