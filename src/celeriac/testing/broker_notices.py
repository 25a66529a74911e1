"""Notices: whoever listens to a name hears what is told under it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from celeriac import clock
from celeriac.brokers.contract import Broker, Listener
from celeriac.testing.stand import PATIENCE, SOON, Stand, pause, timed


class Ears:
    """Makes listeners, and closes them."""

    def __init__(self) -> None:
        self._made: list[Listener] = []

    def listen(self, broker: Broker, *names: str) -> Listener:
        self._made.append(broker.listen(names))
        return self._made[-1]

    def close(self) -> None:
        for listener in self._made:
            listener.close()


def hear(listener: Listener, count: int) -> list[tuple[str, bytes]]:
    """So many notices."""
    heard: list[tuple[str, bytes]] = []
    deadline = clock.monotonic() + PATIENCE
    while len(heard) < count:
        assert clock.monotonic() < deadline, f"only {heard}"
        heard += listener.wait(SOON)
    return heard


class Notices:
    """`notify`, `listen` and the verbs of a listener. Names that no other test uses are queues' names here."""

    @pytest.fixture
    def ears(self, stand: Stand) -> Iterator[Ears]:
        ears = Ears()
        yield ears
        ears.close()

    def test_every_listener_of_a_name_hears_and_no_other(self, stand: Stand, ears: Ears) -> None:
        name, other = stand.new_queue(), stand.new_queue()
        listeners = [
            ears.listen(stand.broker, name),
            ears.listen(stand.other, name),
            ears.listen(stand.other, other, name),
        ]
        deaf = ears.listen(stand.broker, other)
        told = stand.broker.notify(name, b"\x00\r\nany bytes\xff")
        assert told in (0, 3)
        for listener in listeners:
            assert hear(listener, 1) == [(name, b"\x00\r\nany bytes\xff")]
        assert stand.other.notify(other, b"") in (0, 2)
        assert hear(deaf, 1) == hear(listeners[2], 1) == [(other, b"")]
        assert listeners[0].wait(0) == []

    def test_notices_come_in_order(self, stand: Stand, ears: Ears) -> None:
        names = [stand.new_queue(), stand.new_queue()]
        listener = ears.listen(stand.broker, *names)
        told = [(names[i % 2], str(i).encode()) for i in range(100)]
        for name, data in told:
            stand.other.notify(name, data)
        assert hear(listener, 100) == told

    def test_a_listener_hears_nothing_of_the_time_before(self, stand: Stand, ears: Ears) -> None:
        name = stand.new_queue()
        assert stand.broker.notify(name, b"before") == 0
        listener = ears.listen(stand.broker, name)
        stand.broker.notify(name, b"after")
        assert hear(listener, 1) == [(name, b"after")]

    def test_what_is_told_ends_a_wait(self, stand: Stand, ears: Ears) -> None:
        name = stand.new_queue()
        heard, seconds = _while_waiting(
            stand, ears.listen(stand.broker, name), lambda: stand.other.notify(name, b"x")
        )
        assert heard == [(name, b"x")]
        assert seconds < SOON

    def test_wake_ends_a_wait(self, stand: Stand, ears: Ears) -> None:
        listener = ears.listen(stand.broker, stand.new_queue())
        heard, seconds = _while_waiting(stand, listener, listener.wake)
        assert heard == []
        assert seconds < SOON

    def test_a_wake_before_a_wait_is_not_lost(self, stand: Stand, ears: Ears) -> None:
        listener = ears.listen(stand.broker, stand.new_queue())
        listener.wake()
        heard, seconds = timed(lambda: listener.wait(PATIENCE))
        assert heard == []
        assert seconds < SOON

    def test_a_wait_ends_in_time(self, stand: Stand, ears: Ears) -> None:
        listener = ears.listen(stand.broker, stand.new_queue())
        heard, seconds = timed(lambda: listener.wait(0.2))
        assert heard == []
        assert 0.15 < seconds < 0.2 + SOON

    def test_closing_ends_a_wait_and_every_later_one(self, stand: Stand, ears: Ears) -> None:
        listener = ears.listen(stand.broker, stand.new_queue())
        heard, seconds = _while_waiting(stand, listener, listener.close)
        assert heard == listener.wait(PATIENCE) == []
        assert seconds < SOON
        listener.wake()
        listener.close()

    def test_traffic_on_queues_is_no_notice(self, stand: Stand, ears: Ears) -> None:
        listener = ears.listen(stand.broker, stand.queue)
        stand.send("a", "b")
        stand.drain()
        assert listener.wait(0.1) == []


def _while_waiting(
    stand: Stand, listener: Listener, action: object
) -> tuple[Sequence[tuple[str, bytes]], float]:
    """What a `wait` in another thread returns that waits while the action happens, and how long after it."""
    entered = threading.Event()

    def wait() -> list[tuple[str, bytes]]:
        entered.set()
        return listener.wait(PATIENCE)

    future = stand.start(wait)
    assert entered.wait(PATIENCE)
    pause(0.05)
    assert callable(action)
    action()
    return timed(lambda: future.result(2 * PATIENCE))
