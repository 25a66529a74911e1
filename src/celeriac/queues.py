"""Queues and exchanges as settings declare them: values with kombu's names and arguments, and what is bound to what.

    task_queues = [
        Queue("default", routing_key="task.#"),
        Queue("images", Exchange("media", type="direct"), routing_key="image.compress"),
    ]

An exchange is a table in the sender's settings and no thing of the broker's: `Bindings` says which queues a message
goes to, and the broker sees queues only. kombu's own objects, and dicts of Celery's old form, are read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from celeriac.exceptions import ImproperlyConfigured
from celeriac.setting_kinds import DELIVERY_MODE, TRANSIENT, NotOfKind, is_mapping

#: The types of exchanges: by the same key, by a pattern of words, and to all.
TYPES: Final = ("direct", "topic", "fanout")
#: So many answers are remembered: routing keys may hold anything.
_MOST_KNOWN: Final = 1000
#: For so many seconds a worker that is away is sent copies of broadcasts that do not say.
_AWAY: Final = 300.0


class Exchange:
    """A name that messages are sent to, and how it picks among the queues that are bound to it.

    `type` is `direct`, `topic` or `fanout`. What else kombu's takes is kept, and has no effect.
    """

    def __init__(self, name: str = "", type: str = "", channel: Any = None, **options: Any) -> None:
        self.name = name
        self.type = type or "direct"
        self.options = options

    def __repr__(self) -> str:
        return f"Exchange({self.name!r}, type={self.type!r})"


class binding:
    """One more way from an exchange to a queue: `Queue("q", bindings=[binding(exchange, "news.*"), ...])`."""

    def __init__(
        self, exchange: Any = None, routing_key: str = "", arguments: Any = None, unbind_arguments: Any = None
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key

    def __repr__(self) -> str:
        return f"binding({self.exchange!r}, {self.routing_key!r})"


class Queue:
    """A queue, and the exchange and routing key by which it is reached besides its own name.

    Without an exchange that is `task_default_exchange`. `bindings` are further ways, or the only ones where they stand
    in place of the exchange, as with kombu. `max_length` is how many messages may wait in it: a send that would make
    more is refused, and nothing is ever dropped. With `durable=False`, or
    `delivery_mode="transient"` of its exchange, its messages are transient unless they say otherwise themselves.
    """

    def __init__(
        self,
        name: str = "",
        exchange: Any = None,
        routing_key: str = "",
        channel: Any = None,
        bindings: Iterable[Any] | None = None,
        on_declared: Any = None,
        *,
        queue_arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        ways: list[Any] = [*(bindings or ())]
        if isinstance(exchange, list | tuple | set | frozenset):
            ways, exchange = [*cast("Iterable[Any]", exchange), *ways], None
        self.name = name
        self.exchange: Any = Exchange(exchange) if isinstance(exchange, str) else exchange
        self.routing_key = routing_key
        self.bindings = ways
        self.queue_arguments = dict(queue_arguments or {})
        self.options = options
        self.max_length: int | None = options.pop("max_length", None)
        self.durable: bool = options.pop("durable", True)

    def __repr__(self) -> str:
        return f"Queue({self.name!r}, {self.exchange!r}, {self.routing_key!r})"


class Broadcast(Queue):
    """A queue of whose messages every worker that takes from it has a copy: kombu's `kombu.common.Broadcast`.

    It is reached by its name, and by a fanout exchange of that name. Each worker's copies wait in a queue of its own,
    `<name>.<worker>`, for as long as it renews that, and for `expires` seconds (300) behind. `queue`, `unique` and
    `auto_delete` have no effect: see docs/routing.md.
    """

    def __init__(
        self,
        name: str | None = None,
        queue: str | None = None,
        unique: bool = False,
        auto_delete: bool = True,
        exchange: Any = None,
        alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Raises: ImproperlyConfigured: neither a name nor an alias."""
        if not (called := alias or name):
            raise ImproperlyConfigured("a Broadcast needs a name: it is sent to by that")
        super().__init__(called, exchange or Exchange(name or called, type="fanout"), **kwargs)
        self.alias = called
        self.expires: Any = self.options.get("expires")

    def __repr__(self) -> str:
        return f"Broadcast({self.name!r})"


class _Way(NamedTuple):
    """A binding: from that exchange, by that key, to that queue."""

    exchange: str
    key: str
    queue: str


class Bindings:
    """Which queues an exchange gives a message to."""

    def __init__(self, conf: Any) -> None:
        """Raises: ImproperlyConfigured: `task_queues` cannot be read."""
        #: Celery's names of what a message is sent to that names nothing itself.
        self.default_exchange: str = conf.task_default_exchange or conf.task_default_queue
        self.default_key: str = conf.task_default_routing_key or conf.task_default_queue
        self._types: dict[str, str] = {self.default_exchange: conf.task_default_exchange_type}
        self._ways: list[_Way] = []
        self.names: list[str] = []
        for name, queue in _listed(conf.task_queues):
            if name not in self.names:
                self.names.append(name)
                self._bind(name, queue)
        if conf.task_default_queue not in self.names:
            self._ways.append(_Way(self.default_exchange, self.default_key, conf.task_default_queue))
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}

    def way_of(self, queue: str) -> tuple[str, str]:
        """The exchange and the key of a queue: what completes a call that gives one of the two only."""
        first = next((way for way in self._ways if way.queue == queue), None)
        return (first.exchange, first.key) if first is not None else (queue, queue)

    def queues_of(self, exchange: str, key: str) -> tuple[str, ...]:
        """The queues that a message with this key goes to, in the order of `task_queues`; the nameless exchange's is
        the queue that the key names."""
        if not exchange:
            return (key,)
        known = self._known.get((exchange, key))
        if known is None:
            kind = self._types.get(exchange, "direct")
            known = tuple(
                dict.fromkeys(
                    way.queue for way in self._ways if way.exchange == exchange and _fits(kind, way.key, key)
                )
            )
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[exchange, key] = known
        return known

    def explain(self, exchange: str) -> str:
        """What is bound to an exchange, for people."""
        found = [f"{way.queue!r} by {way.key!r}" for way in self._ways if way.exchange == exchange]
        if not found:
            return "no queue of task_queues is bound to it"
        return f"it is of type {self._types.get(exchange, 'direct')!r} and has {', '.join(found)}"

    def _bind(self, name: str, queue: Any) -> None:
        ways: list[Any] = list(getattr(queue, "bindings", None) or ())
        exchange, key = getattr(queue, "exchange", None), getattr(queue, "routing_key", "")
        if isinstance(queue, str):
            self._ways.append(_Way(self.default_exchange, name, name))
            return
        if exchange is not None or not ways:
            ways.insert(0, binding(exchange, key))
        for way in ways:
            to = self._exchange(way.exchange, name)
            self._ways.append(_Way(to, way.routing_key or self.default_key, name))

    def _exchange(self, exchange: Any, queue: str) -> str:
        """The name of an exchange that a queue is bound to; its type is noted."""
        if isinstance(exchange, str):
            return exchange or self.default_exchange
        name: str = getattr(exchange, "name", "")
        if not name:
            return self.default_exchange
        kind: str = getattr(exchange, "type", None) or "direct"
        if kind not in TYPES:
            raise ImproperlyConfigured(
                f"'task_queues' binds {queue!r} to the exchange {name!r} of type {kind!r}; there are {', '.join(TYPES)}"
            )
        if self._types.setdefault(name, kind) != kind:
            raise ImproperlyConfigured(
                f"the exchange {name!r} is said to be of type {kind!r} (by the queue {queue!r}) and of type "
                f"{self._types[name]!r}"
            )
        return name


def declared(queues: Any) -> list[str]:
    """The names of the queues that `task_queues` declares, in their order and each once."""
    return list(dict.fromkeys(name for name, _ in _listed(queues)))


def broadcasts(queues: Any) -> dict[str, float]:
    """For how many seconds a worker that is away is sent copies, by the name of each broadcast among the queues.

    Raises: ImproperlyConfigured: `expires` is no such number.
    """
    found: dict[str, float] = {}
    for name, queue in _listed(queues):
        if _is_broadcast(queue):
            expires = getattr(queue, "expires", None)
            expires = _AWAY if expires is None else expires
            if isinstance(expires, bool) or not isinstance(expires, int | float) or not expires > 0:
                raise ImproperlyConfigured(
                    f"the expires of {name!r} must be seconds, more than 0, not {expires!r}"
                )
            found[name] = float(expires)
    return found


def lengths(queues: Any) -> dict[str, int]:
    """How many messages may wait in a queue, by name, of those that say so: `max_length`, or AMQP's `x-max-length`.

    Raises: ImproperlyConfigured: it is no number, or the queue is to drop what does not fit.
    """
    found: dict[str, int] = {}
    for name, queue in _listed(queues):
        arguments: Mapping[str, Any] = getattr(queue, "queue_arguments", None) or {}
        most = getattr(queue, "max_length", None)
        most = arguments.get("x-max-length") if most is None else most
        if most is None:
            continue
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ImproperlyConfigured(
                f"the max_length of {name!r} must be a whole number (1 or more), not {most!r}"
            )
        if not str(arguments.get("x-overflow", "reject-publish")).startswith("reject-publish"):
            raise ImproperlyConfigured(
                f"{name!r} is to drop messages when it is full ('x-overflow'); here the send is refused instead"
            )
        found[name] = most
    return found


def modes(queues: Any) -> dict[str, int]:
    """In which mode messages are kept that do not say, by the names of the queues that do.

    Raises: ImproperlyConfigured: an exchange has a mode that is none.
    """
    found: dict[str, int] = {}
    for name, queue in _listed(queues):
        exchange = getattr(queue, "exchange", None)
        options: Mapping[str, Any] = getattr(exchange, "options", None) or {}
        mode = options.get("delivery_mode", getattr(exchange, "delivery_mode", None))
        if getattr(queue, "durable", True) is False:
            mode = TRANSIENT
        if mode is not None:
            try:
                found[name] = DELIVERY_MODE.accept(mode)
            except NotOfKind as exc:
                raise ImproperlyConfigured(
                    f"the delivery_mode of the exchange of {name!r} must be {DELIVERY_MODE.expects}, not {mode!r}.{exc}"
                ) from None
    return found


def _listed(queues: Any) -> list[tuple[str, Any]]:
    """The queues of `task_queues` by name: texts, `Queue`s or kombu's, or a dict of Celery's old form."""
    if not is_mapping(queues):
        return [(_name(queue), queue) for queue in queues or ()]
    return [
        (str(name), _old_form(str(name), form) if is_mapping(form) else form or str(name))
        for name, form in queues.items()
    ]


def _name(queue: Any) -> str:
    """What a queue is called where messages are sent to it; kombu gives each `Broadcast` another name besides."""
    return str(queue.alias if _is_broadcast(queue) else getattr(queue, "name", queue))


def _is_broadcast(queue: Any) -> bool:
    """Whether it is ours or kombu's."""
    return any(one.__name__ == "Broadcast" for one in type(queue).__mro__)


def _old_form(name: str, form: Mapping[str, Any]) -> Queue:
    exchange = form.get("exchange")
    if isinstance(exchange, str) and exchange:
        exchange = Exchange(exchange, form.get("exchange_type") or "")
    key = form.get("routing_key") or form.get("binding_key") or ""
    durable = form.get("durable", True)
    return Queue(name, exchange, key, queue_arguments=form.get("queue_arguments"), durable=durable)


def _fits(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    return pattern == key if kind == "direct" else _words_fit(pattern.split("."), key.split("."))


def _words_fit(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """`*` is one word, `#` any number of them, none too. Steps through both, so that no pattern takes long."""
    places = {0}
    for part in pattern:
        if part == "#":
            places = set(range(min(places, default=len(words) + 1), len(words) + 1))
        else:
            places = {at + 1 for at in places if at < len(words) and part in ("*", words[at])}
    return len(words) in places
