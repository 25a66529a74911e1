"""The states of a task as its caller sees them, and which state may follow which.

The strings are Celery's. `docs/states.md` draws the same table.
"""

from __future__ import annotations

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})

#: From "last word" to "nothing known". A state of a task's own (`PROGRESS`) stands where None does.
PRECEDENCE: tuple[str | None, ...] = (
    SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING,
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(PRECEDENCE)}

#: What may be stored after what. A state of a task's own may follow and be followed like STARTED.
MOVES: dict[str, frozenset[str]] = {
    PENDING: ALL_STATES,
    RECEIVED: ALL_STATES - {PENDING},
    STARTED: ALL_STATES - {PENDING},
    RETRY: ALL_STATES - {PENDING},
    SUCCESS: frozenset({SUCCESS}),
    FAILURE: frozenset({FAILURE}),
    REVOKED: frozenset({REVOKED}),
}


def precedence(state: str) -> int:
    """The rank of a state; a smaller number outranks a larger one."""
    return _RANK.get(state, _RANK[None])


class state(str):
    """A state that compares by precedence: `state(PENDING) < state(SUCCESS)`."""

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
