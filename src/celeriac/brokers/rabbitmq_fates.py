"""Where a message goes after its delivery, and what its envelope says then: settled, given back, crashed or buried."""

from __future__ import annotations

import os
from typing import Final

import msgspec

from celeriac import clock
from celeriac.brokers.contract import (
    CRASHED,
    Ack,
    Bury,
    Casualty,
    PutBack,
    Release,
    Replace,
    Settlement,
    crash_detail,
    crash_pause,
    is_given_up,
)
from celeriac.brokers.rabbitmq_names import DEAD, FIRST, Envelope, wrap
from celeriac.brokers.rabbitmq_routes import Post, post

#: The verdict on a message whose run had begun and must not be repeated.
WORKER_LOST: Final = "worker_lost"


def committed(envelope: Envelope) -> Envelope:
    """Its run begins now and must not be repeated."""
    return msgspec.structs.replace(envelope, committed=True)


def settled(settlement: Settlement, envelope: Envelope, data: bytes) -> list[Post]:
    """What is sent with a settlement, in order."""
    posts = [post(one) for one in settlement.sends]
    match settlement.action:
        case Ack():
            pass
        case Release():
            posts.append(given_back(envelope, data))
        case Replace(successor=successor):
            body = wrap(successor.data, Envelope(fence=envelope.fence))
            posts.append(post(successor)._replace(body=body))
        case PutBack(data=data, due_at=due_at):
            if envelope.committed:
                envelope = msgspec.structs.replace(envelope, verdict=WORKER_LOST, committed=False)
            posts.append(Post(envelope.queue, envelope.part, wrap(data, envelope), due_at))
        case Bury():
            posts.append(buried(envelope, data, settlement.action))
    return posts


def given_back(envelope: Envelope, data: bytes) -> Post:
    """A message that goes before all others, and whose end is decided if its run had begun for good."""
    if envelope.committed:
        envelope = msgspec.structs.replace(envelope, verdict=WORKER_LOST, committed=False)
    return Post(envelope.queue, FIRST, wrap(data, envelope))


def buried(envelope: Envelope, data: bytes, bury: Bury) -> Post:
    """A dead letter."""
    letter = msgspec.structs.replace(
        envelope, verdict=None, committed=False, reason=bury.reason, detail=bury.detail, died_at=clock.now(),
        letter=os.urandom(16),
    )  # fmt: skip
    return Post(envelope.queue, DEAD, wrap(data, letter))


def crashed(envelope: Envelope, data: bytes, casualty: Casualty, max_deliveries: int) -> Post:
    """A message whose process died: it comes again, later each time, and at last with the verdict."""
    if envelope.committed:
        verdict = f"{WORKER_LOST}:{casualty.cause}"
        return given_back(msgspec.structs.replace(envelope, verdict=verdict, committed=False), data)
    crashes = (*envelope.crashes, casualty)
    envelope = msgspec.structs.replace(envelope, crashes=crashes)
    detail = crash_detail(crashes)
    if is_given_up(len(crashes), envelope.verdict, max_deliveries):
        return buried(envelope, data, Bury(CRASHED, detail))
    if len(crashes) >= max_deliveries:
        return given_back(msgspec.structs.replace(envelope, verdict=f"{CRASHED}:{detail}"), data)
    pause = crash_pause(len(crashes))
    back = given_back(envelope, data)
    return back._replace(due_at=clock.now() + pause) if pause else back
