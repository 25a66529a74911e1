"""Hears what all workers are told, from a process that no task can block, and carries their answers.

A thread of the supervisor, with a connection of its own: it waits for notices and hands them to the main loop, which
acts on them. While the broker is away it tries again; what was told meanwhile is looked up afterwards.

`NoticeListener` is written to by the main loop only; what the two threads share are two deques and two events.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from celeriac import clock, notices
from celeriac.brokers.contract import Broker, Listener, Revocation
from celeriac.exceptions import OperationalError
from celeriac.notices import Ask, Banned, Revoke, Shutdown

_LONGEST_WAIT: Final = 30.0
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 3.0
#: So many notices wait for the main loop; then this thread waits for it, and its connection holds the rest.
_MOST_WAITING: Final = 50
_LOOK: Final = 0.02


class Missed(msgspec.Struct, frozen=True):
    """Notices may have been missed: what the children hold may be revoked, and what they run."""


Heard = Revoke | Banned | Ask | Shutdown | Missed


class NoticeListener:
    """Listens, looks up, answers."""

    def __init__(self, broker: Broker, queues: Sequence[str], worker: str, wake: Callable[[], None]) -> None:
        """`wake` is called, from the listener's thread, when there is something to `take`."""
        self._broker = broker
        self._queues = queues
        self._worker = worker
        self._wake = wake
        self._heard: deque[Heard] = deque()
        self._answers: deque[tuple[str, bytes]] = deque()
        #: Keys, and until when (monotonic) they are told of. The main loop's own.
        self._ended: deque[tuple[bytes, float]] = deque(maxlen=notices.MOST_ENDED)
        self._to_check: frozenset[bytes] = frozenset()
        self._closing, self._begun = threading.Event(), threading.Event()
        self._listener: Listener | None = None
        self._thread = threading.Thread(target=self._serve, name="notices", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def has_begun(self) -> bool:
        """Whether notices are heard from now on, or could not be: it is tried again then."""
        return self._begun.is_set()

    def take(self) -> Iterator[Heard]:
        """What was heard, each once."""
        while self._heard:
            heard = self._heard.popleft()
            if isinstance(heard, Revoke) and heard.ended:
                until = clock.monotonic() + heard.keep
                self._ended.extend((key, until) for key in heard.ended)
            yield heard

    def ended(self) -> list[bytes]:
        """The keys of tasks that were revoked where they waited, as far as they are remembered; oldest first."""
        now = clock.monotonic()
        return [key for key, until in self._ended if until > now]

    def answer(self, name: str, body: object) -> None:
        """Tell whoever listens under this name how this worker is."""
        self._answers.append((name, notices.encode(notices.Answer(self._worker, body))))
        self._wake_thread()

    def check(self, keys: frozenset[bytes]) -> None:
        """After something was missed: have it heard again which of these tasks, that run, are to be ended."""
        self._to_check = keys
        self._wake_thread()

    def close(self, timeout: float) -> None:
        """Stop. Idempotent."""
        self._closing.set()
        if self._listener is not None:
            self._listener.close()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _wake_thread(self) -> None:
        if self._listener is not None:
            self._listener.wake()

    def _serve(self) -> None:
        failures = 0
        self._listener = listener = self._broker.listen([notices.WORKERS])
        # From before it listened something may have been missed as well.
        is_behind = True
        while not self._closing.is_set():
            try:
                heard = listener.wait(0.0 if is_behind else _LONGEST_WAIT)
                self._begun.set()
                if is_behind:
                    self._put(Missed())
                for _, data in heard:
                    self._read(data)
                self._look_up()
                self._send_answers()
            except OperationalError:
                # The lease keeper tells of it.
                self._answers.clear()
                is_behind = True
                self._begun.set()
                self._wake()
                self._closing.wait(clock.backoff(failures, _FIRST_DELAY, _LONGEST_DELAY, jitter=True))
                failures += 1
            else:
                failures, is_behind = 0, False
        listener.close()

    def _read(self, data: bytes) -> None:
        notice = notices.read(data)
        if notice is not None and notice.is_for(self._worker):
            self._put(notice)

    def _put(self, heard: Heard) -> None:
        self._heard.append(heard)
        self._wake()
        while len(self._heard) >= _MOST_WAITING and not self._closing.wait(_LOOK):
            continue

    def _look_up(self) -> None:
        """Ask the broker what of that which runs is to be ended."""
        keys = self._to_check
        if not keys:
            return
        for queue in self._queues:
            for one in self._broker.revoked(queue):
                if one.terminate and one.key in keys:
                    self._put(_notice_of(one))
        # Another question may have come meanwhile.
        if self._to_check is keys:
            self._to_check = frozenset()

    def _send_answers(self) -> None:
        while self._answers:
            name, data = self._answers.popleft()
            self._broker.notify(name, data)


def _notice_of(revocation: Revocation) -> Revoke:
    # The child remembers it only for as long as the run may take to end; the broker knows for how long it holds.
    return Revoke(keys=(revocation.key,), keep=60.0, terminate=True, signal=revocation.signal)
