"""The broker's calls to PostgreSQL: functions of the `drivers/postgres_*.sql`, with types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from celeriac.brokers.contract import Casualty, Outgoing
from celeriac.drivers.postgres_joins import OPENING, delay
from celeriac.drivers.postgres_wire import verb

#: The queue, priority, delay and bytes of messages, and which are transient.
_MESSAGES: Final = "texts ints floats byteses bools"

HEAR: Final = verb("hear", "text texts")
SEND: Final = verb("send", f"bytes {_MESSAGES}")
SEND_LIMITED: Final = verb("send_limited", f"bytes {_MESSAGES} texts bigs", "text")
RENEW: Final = verb("renew", "texts float int", "texts")
SURRENDER: Final = verb("surrender", "text byteses byteses byteses byteses byteses int", "int")
TAKE: Final = verb(
    "take", "text texts int float int bool text float bool", "bool float text bigs byteses int bytes"
)
GIVE_BACK: Final = verb("give_back", "text big")
SETTLE: Final = verb(
    "settle",
    "text bigs bigs bigs byteses floats bigs byteses byteses bigs byteses byteses floats"
    f" bigs {_MESSAGES} bigs byteses ints byteses bigs byteses bigs {OPENING}",
    "bigs",
)
CONFIRM: Final = verb("confirm", "text bigs", "bigs")
COMMIT: Final = verb("commit_runs", "text bigs", "bigs")
NOTE: Final = verb("note", "text big byteses byteses floats", "bool")

REMEMBER: Final = verb("remember", "text byteses bools texts float")
HELD_KEYS: Final = verb("held_keys", "text", "byteses")
JUDGE_READY: Final = verb("judge_ready", "text int big int byteses", "byteses big int big")
JUDGE_DELAYED: Final = verb("judge_delayed", "text float big int byteses", "byteses big float big")
SHORTEN: Final = verb("shorten", "text int")
REVOKED: Final = verb("list_revoked", "text", "bytes bool text")
BAN: Final = verb("ban", "bytes float int")
BANS: Final = verb("list_bans", "", "bytes")
FIND_READY: Final = verb("find_ready", "text int big int bytes", "int big bytes")
FIND_DELAYED: Final = verb("find_delayed", "text float big int bytes", "float big bytes")
FIND_HELD: Final = verb("find_held", "text bytes", "bytes")

SUBSCRIBE: Final = verb("subscribe", "text text float")
SUBSCRIBERS: Final = verb("subscribers", "text", "text")
FORGET_LAPSED: Final = verb("forget_lapsed", "text float", "text")

TELL: Final = verb("tell", "text bytes")
TOLD: Final = verb("told", "texts bigs", "big text bytes")

QUEUES: Final = verb("list_queues", "", "text")
DELAYED: Final = verb("list_delayed", "text int", "float bytes")
STATS: Final = verb("stats", "text", "big big big big bool big bytes")
PAUSE: Final = verb("pause", "text bool")
LAST_POSITION: Final = verb("last_position", "", "big")
PURGE: Final = verb("purge", "text big int", "big")
DEAD: Final = verb("list_dead", "text bytes int", "bytes bytes bytes bytes float byteses")
FIND_DEAD: Final = verb("find_dead", "text bytes", "bytes bytes bytes bytes float byteses")
REPLAY: Final = verb("replay", "text byteses", "big")
DROP: Final = verb("drop_dead", "text byteses", "big")
DEAD_AGES: Final = verb("dead_ages", "text int", "bytes float big big")
EVICT: Final = verb("evict", "text bigs", "big")

PACK: Final = verb(
    "pack", "text text bytes int big",
    "text bytes big int float bytes byteses bytes float bytes bytes bytes",
)  # fmt: skip
UNPACK: Final = verb(
    "unpack",
    "text bytes big ints floats byteses byteses floats byteses byteses byteses ints byteses bools",
    "bool",
)
DISCARD: Final = verb("discard", "text bytes big")

write_casualty: Final = msgspec.json.Encoder().encode
read_casualty: Final = msgspec.json.Decoder(Casualty).decode


def raw(text: str) -> bytes:
    """A text as the tables have it where it may hold anything."""
    return text.encode("utf-8", "replace")


def text(data: bytes) -> str:
    """The text that `raw` was given."""
    return data.decode("utf-8", "replace")


def words(batch: Sequence[Outgoing]) -> tuple[list[Any], list[Any], list[Any], list[Any], list[bool] | None]:
    """Messages as the functions take them."""
    return (
        [one.queue for one in batch],
        [one.priority for one in batch],
        [delay(one.due_at) for one in batch],
        [one.data for one in batch],
        which([one.transient for one in batch]),
    )


def which(transients: list[bool]) -> list[bool] | None:
    """Which messages of a batch are transient; None: none is, as nearly always."""
    return transients if True in transients else None
