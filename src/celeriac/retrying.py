"""What a retry is made of: when the next run is due, and the message that asks for it.

Decisions only: nothing here sends, or knows of a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from celeriac import arguments, clock, send_options
from celeriac.context import Request
from celeriac.message import Message
from celeriac.producer import Call, Producer, to_one
from celeriac.routing import DESTINATION


def delays(task: Any, retries: int) -> dict[str, Any]:
    """What an automatic retry is given: `retry_kwargs`, and the delay where the task asks for backoff."""
    given = dict(task.retry_kwargs)
    if task.retry_backoff is not False and task.retry_backoff is not None:
        factor = 1.0 if task.retry_backoff is True else float(task.retry_backoff)
        given.pop("eta", None)
        given["countdown"] = clock.backoff(
            retries, factor, clock.seconds(task.retry_backoff_max), jitter=bool(task.retry_jitter)
        )
    return given


def successor(
    producer: Producer, request: Request, args: Any, kwargs: Any, options: Mapping[str, Any]
) -> Call:
    """The message of the next run: the same id, one retry more, and what the task has changed in its request.

    Raises:
        UnknownOption, ImproperlyConfigured: see `send_options.check`.
        EncodeError, MessageTooLarge: new arguments do not travel.
    """
    message = request.message
    name = request.task
    given = send_options.check(options, name)
    base = msgspec.structs.replace(
        request.options,
        retries=request.retries + 1, eta=None, unknown_since=None, headers=request.headers,
        stamps=request.stamps or None, links=request.callbacks, errbacks=request.errbacks, chain=request.chain,
        chord=request.chord,
    )  # fmt: skip
    if request.brought and args is request.args:
        # The next run gets them from the join again.
        args = args[1:]
    else:
        base = msgspec.structs.replace(base, join=None)
    resolved = send_options.resolve(given, base, producer.zone)
    others: list[str] = []
    if given.keys() & DESTINATION:
        queue, *others = producer.router.queues_for(name, given, producer.router.options_for(name))
    else:
        queue = request.delivery_info["routing_key"] or producer.router.queue_for(name)
    key = b"" if message is None else message.key
    made = Message(key, name, args, kwargs, resolved)
    call = to_one(Call(made, queue, resolved.eta, resolved.priority, tuple(others)))
    if message is not None and not (args is message.args and kwargs is message.kwargs):
        producer.written(call)
    return call


def arguments_of(function: Any, request: Request, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of the next run: the new ones, and of the old ones those that they leave room for."""
    if args is None:
        if kwargs is None:
            return request.args, request.kwargs
        return arguments.rebound(function, request.args, kwargs)
    if kwargs is None:
        taken = arguments.positional_names(function)[: len(args)]
        kwargs = {name: value for name, value in request.kwargs.items() if name not in taken}
    return args, kwargs
