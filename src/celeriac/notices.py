"""What workers are told, and what they answer, by way of the broker (`Broker.notify`).

A notice reaches the workers that listen at that moment, and is kept for nobody: what must hold is kept by the broker
(`Broker.revoke`), and a notice only makes it known at once. Words only; the supervisor reads them too, so this stays
cheap to import.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

#: The name under which all workers listen.
WORKERS: Final = "workers"
#: So many keys a notice has at most: a supervisor holds a few notices at once.
MOST_KEYS: Final = 1000
#: Of so many tasks that were revoked where they waited a worker remembers the keys, about 0.3 MB.
MOST_ENDED: Final = 5000


class Notice(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of what workers are told.

    `destination`: the names of the workers that are meant, None is all of them. `reply`: the name under which the
    sender listens for an `Answer`; empty: he does not.
    """

    destination: tuple[str, ...] | None = None
    reply: str = ""

    def is_for(self, worker: str) -> bool:
        """Whether the worker of that name is meant."""
        return self.destination is None or worker in self.destination


class Revoke(Notice, frozen=True, kw_only=True):
    """The tasks of these keys are revoked, for `keep` seconds; see `brokers.contract.Revocation`.

    Those of `ended` waited, and have ended for that: workers only remember it, for those who ask.
    """

    keys: tuple[bytes, ...]
    ended: tuple[bytes, ...] = ()
    keep: float
    terminate: bool = False
    signal: str = ""


class Banned(Notice, frozen=True, kw_only=True):
    """The broker knows of a new ban (`celeriac.bans`)."""


class Ask(Notice, frozen=True, kw_only=True):
    """How are you? The answer is what `/status` of a health probe says.

    With `about`, one of `ABOUT`, it is a `supervisor.questions.Told`: what the process that knows has said of it.
    """

    about: str = ""
    items: tuple[str, ...] = ()


#: What the template knows: the settings and the tasks of the application, and a report for people.
ABOUT_APP: Final = ("conf", "registered", "report")
#: What each child knows: the tasks that it holds (those of `items`, or all), and how many it has run of which name.
ABOUT_TASKS: Final = ("tasks", "counts")


#: What the supervisor knows: which tasks were revoked where they waited.
ABOUT_REVOKED: Final = "revoked"


class Shutdown(Notice, frozen=True, kw_only=True):
    """Stop in order, as after SIGTERM."""


class Answer(msgspec.Struct, frozen=True):
    """What the worker of that name says."""

    worker: str
    body: Any


encode: Final = msgspec.msgpack.Encoder().encode
_NOTICES: Final = msgspec.msgpack.Decoder(Revoke | Banned | Ask | Shutdown)
_ANSWERS: Final = msgspec.msgpack.Decoder(Answer)


def read(data: bytes) -> Revoke | Banned | Ask | Shutdown | None:
    """A notice; None: it cannot be read, as one of a later version, and is to be passed over."""
    try:
        notice: Revoke | Banned | Ask | Shutdown = _NOTICES.decode(data)
    except msgspec.MsgspecError:
        return None
    return notice


def read_answer(data: bytes) -> Answer | None:
    """An answer; None: it cannot be read."""
    try:
        return _ANSWERS.decode(data)
    except msgspec.MsgspecError:
        return None
