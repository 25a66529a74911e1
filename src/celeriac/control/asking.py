"""Telling all workers something, and gathering what they answer within a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from celeriac import clock, message, notices
from celeriac.brokers.contract import Broker
from celeriac.notices import Answer, Notice


def tell(broker: Broker, notice: Notice) -> None:
    """Tell those workers that listen now. Raises: BrokerUnavailable, BrokerRefused"""
    broker.notify(notices.WORKERS, notices.encode(notice))


def ask(
    broker: Broker,
    notice: Notice,
    timeout: float,
    limit: int | None = None,
    on_answer: Callable[[Answer], Any] | None = None,
) -> list[Answer]:
    """Tell workers, and return what they answer within `timeout` seconds, by worker's name.

    Returns earlier when as many have answered as were told, where the broker can say that; as are named in the
    notice's `destination`; or as `limit` says.

    Raises: BrokerUnavailable, BrokerRefused
    """
    name = f"reply.{message.new_id()}"
    until = clock.monotonic() + timeout
    listener = broker.listen([name])
    answers: dict[str, Answer] = {}
    try:
        # Listening before anybody is told; and a connection that cannot be had is told of.
        listener.wait(0.0)
        asked = msgspec.structs.replace(notice, reply=name)
        told = broker.notify(notices.WORKERS, notices.encode(asked))
        expected = [count for count in (limit, _count(notice.destination), told) if count]
        while len(answers) < min(expected, default=len(answers) + 1):
            left = until - clock.monotonic()
            if left <= 0:
                break
            for _, data in listener.wait(left):
                answer = notices.read_answer(data)
                if answer is not None and answer.worker not in answers:
                    answers[answer.worker] = answer
                    if on_answer is not None:
                        on_answer(answer)
    finally:
        listener.close()
    return [answers[worker] for worker in sorted(answers)]


def _count(destination: Sequence[str] | None) -> int | None:
    return None if destination is None else len(set(destination))
