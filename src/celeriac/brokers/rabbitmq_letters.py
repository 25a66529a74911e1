"""Dead letters at RabbitMQ: a queue that nobody consumes. To find one, one at a time looks through all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Final, NamedTuple

from celeriac import clock
from celeriac.brokers.contract import DeadLetter
from celeriac.brokers.pruning import Pruned, prunable
from celeriac.brokers.rabbitmq_leases import NOT_FOUND
from celeriac.brokers.rabbitmq_names import DEAD, Envelope, unwrap, wrap
from celeriac.brokers.rabbitmq_routes import Post, Routes
from celeriac.brokers.rabbitmq_seizing import Seizure, seized
from celeriac.drivers.amqp import Connection
from celeriac.drivers.amqp_address import ServerError
from celeriac.drivers.amqp_channel import counts
from celeriac.drivers.amqp_wire import Message

#: Letters that went back are waited for so long, and looked for so often (seconds). Somebody else may have them.
_PATIENCE: Final = 3.0
_PAUSE: Final = 0.002


class Found(NamedTuple):
    """A letter where it lies: its delivery, and the key that it goes by."""

    tag: int
    envelope: Envelope
    letter: DeadLetter


class Letters:
    """The dead letters of one queue, as long as nobody else has them."""

    def __init__(self, routes: Routes, connection: Connection, seizure: Seizure, queue: str) -> None:
        self._routes = routes
        self._connection = connection
        self._seizure = seizure
        self.all = _letters(queue, seizure.messages)
        #: How many stay.
        self.left = len(self.all)
        #: Whether there may be more, which lie behind these.
        self.is_cut = seizure.is_cut

    def end(self, found: Sequence[Found], back: Callable[[Found], Post] | None = None) -> int:
        """Delete letters, or put them `back` as messages. Returns how many."""
        self.move(found, [] if back is None else [back(one) for one in found])
        return len(found)

    def move(self, found: Sequence[Found], posts: Sequence[Post]) -> None:
        """Put these in the place of letters."""
        self._routes.store(self._connection, self._seizure.channel, posts, [one.tag for one in found])
        self.left -= len(found)


def _letters(queue: str, messages: Sequence[Message]) -> list[Found]:
    """Of two letters with one key, the second goes by a name of its own, as does one without."""
    found: list[Found] = []
    keys: set[bytes] = set()
    for message in messages:
        envelope, data = unwrap(message.body)
        key = data[1:17]
        if key in keys or not key:
            key = envelope.letter
        keys.add(key)
        letter = DeadLetter(
            queue, key, data, envelope.reason, envelope.detail, envelope.died_at, list(envelope.crashes)
        )
        found.append(Found(message.tag, envelope, letter))
    return found


@contextlib.contextmanager
def opened(routes: Routes, connection: Connection, queue: str) -> Generator[Letters | None]:
    """All dead letters of a queue; None: it never had any. Raises: OSError, ServerError."""
    with contextlib.ExitStack() as stack:
        try:
            name = routes.names.part(queue, DEAD)
            seizure = stack.enter_context(seized(connection, name, transactions=routes.transactions))
        except ServerError as exc:
            if exc.code != NOT_FOUND:
                raise
            yield None
            return
        letters = Letters(routes, connection, seizure, queue)
        yield letters
        seizure.end()
    _await_return(routes, connection, queue, letters)


def _await_return(routes: Routes, connection: Connection, queue: str, letters: Letters) -> None:
    """Wait until letters that went back can be counted, which the server sees to when it has time."""
    until = clock.monotonic() + _PATIENCE
    while clock.monotonic() < until:
        if count(routes, connection, queue, DEAD) >= letters.left:
            return
        clock.sleep(_PAUSE)


def replayed(found: Found) -> Post:
    """The message of a letter, sent again: nothing is known of it but that its fence has to grow."""
    queue, data = found.letter.queue, found.letter.data
    return Post(queue, found.envelope.part, wrap(data, Envelope(fence=found.envelope.fence)))


class Pruner:
    """Deletes dead letters that are too old or too many. It looks at them only where some may be.

    `_oldest`: by queue, when (epoch seconds) the oldest letter died, or later, when we last looked.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._oldest: dict[str, float] = {}

    def prune(
        self, connection: Connection, queue: str, *, keep: int | None, lifetime: float | None, limit: int
    ) -> Pruned:
        """See `Broker.prune_dead`; its count is added to afterwards, where it may be missing if we die before."""
        before = None if lifetime is None else clock.now() - lifetime
        is_old = before is not None and self._oldest.get(queue, 0.0) < before
        counted = count(self._routes, connection, queue, DEAD)
        if not is_old and (keep is None or counted <= keep):
            return Pruned()
        now = clock.now()
        pruned = Pruned()
        with opened(self._routes, connection, queue) as letters:
            every = [] if letters is None else letters.all
            head = [(one.letter.key, one.letter.died_at) for one in every[: limit + 1]]
            # Marks are counted as well, so it is asked for only if there is no better way.
            total = counted if letters is not None and letters.is_cut else len(every)
            pruned = prunable(head, total, keep, before, limit)
            gone = pruned.expired + pruned.surplus
            if letters is not None:
                letters.end(every[:gone])
            self._oldest[queue] = every[gone].letter.died_at if gone < len(every) else now
        if gone:
            with self._routes.queues.opened(connection) as draft:
                draft.value[queue].evicted += gone
                draft.is_changed = True
        return pruned


def count(routes: Routes, connection: Connection, queue: str, part: str) -> int:
    """How many messages are ready in a part of a queue; none, if it is not there."""
    with connection.borrowed() as channel:
        channel.declare(routes.names.part(queue, part), {}, passive=True)
        try:
            return counts(channel.gather()[-1])[0]
        except ServerError as exc:
            if exc.code != NOT_FOUND:
                raise
            return 0
