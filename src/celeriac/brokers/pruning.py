"""Which dead letters are to be deleted, being too old or too many: decided here for every broker."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Pruned(msgspec.Struct, frozen=True):
    """What one call of `Broker.prune_dead` has deleted: so many letters for their age, or for the number of them.

    `oldest`: the key of the first of them. `is_more`: others are over the limits still.
    """

    expired: int = 0
    surplus: int = 0
    oldest: bytes = b""
    is_more: bool = False


def prunable(
    head: Sequence[tuple[bytes, float]], count: int, keep: int | None, before: float | None, limit: int
) -> Pruned:
    """How many of `count` dead letters are to be deleted: the first ones of `head`.

    `head`: key and time of death of the oldest; one more than `limit`, where there are so many.
    """
    surplus = 0 if keep is None else min(len(head), max(0, count - keep))
    expired = 0
    while expired < len(head) and before is not None and head[expired][1] < before:
        expired += 1
    gone = min(expired or surplus, limit)
    counts = (gone, 0) if expired else (0, gone)
    return Pruned(*counts, head[0][0] if gone else b"", max(expired, surplus) > gone)
