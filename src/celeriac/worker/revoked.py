"""What a child was told to be revoked: it begins no run of that, whatever was on its way when it heard.

The broker remembers revocations and judges what is taken from then on. What the child had taken before, or was about to
be handed, is caught here. Bounded: the newest are remembered, each for a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from celeriac import bans, clock

#: So many keys are remembered, about 1.5 MB.
MOST: Final = 10_000


class RevokedHere:
    """Keys and until when (monotonic). The steward adds, slots and the main thread ask: each step is one of a dict."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}
        self._known_bans: frozenset[bytes] = frozenset()
        self._waived: frozenset[bytes] = frozenset()
        self._banned: Mapping[str, frozenset[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def add(self, keys: Iterable[bytes], keep: float) -> None:
        """Remember these for `keep` seconds."""
        until = clock.monotonic() + keep
        for key in keys:
            self._until.pop(key, None)
            self._until[key] = until
        while len(self._until) > MOST:
            self._until.pop(next(iter(self._until)), None)

    def obey(self, known: Iterable[bytes]) -> None:
        """From now on these bans hold, and no others."""
        self._known_bans = frozenset(known)
        self._banned = bans.merged(self._known_bans - self._waived)

    def waive(self) -> None:
        """The bans that are known now do not hold here any more, even where somebody repeats one."""
        self._waived |= self._known_bans
        self._banned = {}

    @property
    def banned(self) -> Mapping[str, frozenset[str]]:
        """The bans that hold: stamps by name, with their values."""
        return self._banned

    def known(self) -> list[bytes]:
        """The keys that are remembered."""
        now = clock.monotonic()
        return [key for key, until in self._until.copy().items() if until > now]

    def is_banned(self, stamps: Mapping[str, Any] | None) -> bool:
        """Whether a task with these stamps is revoked."""
        return stamps is not None and bool(self._banned) and bans.match(self._banned, stamps)

    def __contains__(self, key: bytes) -> bool:
        until = self._until.get(key)
        return until is not None and until > clock.monotonic()

    def take(self, key: bytes) -> bool:
        """Whether it is revoked; then that is done with, as with the broker: the id may be used again."""
        until = self._until.pop(key, None)
        return until is not None and until > clock.monotonic()
