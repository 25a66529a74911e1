"""Signal: who wants to be called when something happens, Celery's way (`celery.utils.dispatch`).

A receiver that raises is logged and hurts nobody: neither the one who sends, nor the receivers behind it. A signal can
have a source, which it listens to only while it has receivers: a signal that nobody has connected to costs nothing.

Knows no task and no event: `signals` has Celery's signals and says what feeds them.
"""

from __future__ import annotations

import inspect
import logging
import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from types import MethodType
from typing import Any, ClassVar, Final

import msgspec

from celeriac import clock
from celeriac.exceptions import SignalIsNeverSent

Receiver = Callable[..., Any]

_log: Final = logging.getLogger("celeriac.signals")
#: A receiver that was connected with `retry` is called again after so many seconds, then after as many more, up to the
#: longest pause.
_RETRY_STEP: Final = 2.0
_LONGEST_PAUSE: Final = 30.0


class Connection(msgspec.Struct, frozen=True, gc=False):
    """One receiver and what it wants to hear. `find` answers with the receiver, or None once that is gone."""

    key: Hashable
    sender: Any
    find: Callable[[], Receiver | None]

    def wants(self, sender: Any) -> bool:
        """Whether it wants to hear what that sender sends."""
        own = self.sender
        return own is None or own is sender or (isinstance(own, str) and own == sender)


class Signal:
    """Calls its receivers. Safe to use from several threads."""

    #: Held while receivers come and go, of any signal: two signals may have one source.
    _changing: ClassVar[threading.RLock] = threading.RLock()

    def __init__(
        self,
        name: str,
        providing_args: Iterable[str] = (),
        start: Callable[[], None] | None = None,
        stop: Callable[[], None] | None = None,
        never: str = "",
    ) -> None:
        """`start` is called with the first receiver, `stop` when there is none left. `never`: why it is never sent."""
        self.name = name
        self.providing_args = tuple(providing_args)
        self._start = start
        self._stop = stop
        #: Why it is never sent; "" for one that is.
        self.never = never
        #: Replaced as a whole, so that who sends can read it at any time.
        self._connections: tuple[Connection, ...] = ()

    def connect(
        self,
        receiver: Any = None,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Any:
        """Call `receiver(sender=..., signal=..., **named)` from now on. Returns the receiver; without one, a decorator.

        `sender`: only what this task (or the task of this name), worker or other object sends. With `weak` the receiver
        may be collected as garbage when nobody else refers to it. A second one of the same `dispatch_uid` is not
        connected. With `retry` a receiver that raises is called again, with growing pauses, until it returns.

        Raises: ValueError: the receiver takes no arguments by name.
        Warns: SignalIsNeverSent
        """
        if receiver is None or not callable(receiver):
            named = sender if receiver is None else receiver
            return partial(self.connect, sender=named, weak=weak, dispatch_uid=dispatch_uid, retry=retry)
        if not _takes_names(receiver):
            raise ValueError("Signal receiver must accept keyword arguments.")
        if self.never:
            warnings.warn(
                f"the signal {self.name} is never sent: {self.never}", SignalIsNeverSent, stacklevel=2
            )
        key = _key(receiver, sender, dispatch_uid)
        connection = Connection(key, _named(sender), _finder(receiver, weak, retry))
        with self._changing:
            self._keep(self._connections)
            if key not in {known.key for known in self._connections}:
                self._keep((*self._connections, connection))
        return receiver

    def disconnect(
        self,
        receiver: Any = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Hashable = None,
    ) -> bool:
        """Undo `connect` with the same arguments. Returns whether it was connected."""
        key = _key(receiver, sender, dispatch_uid)
        with self._changing:
            before = len(self._connections)
            rest = tuple(known for known in self._connections if known.key != key)
            self._keep(rest)
            return len(rest) < before

    @property
    def receivers(self) -> list[Receiver]:
        """All that are connected."""
        return [found for known in self._connections if (found := known.find()) is not None]

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would be called."""
        return bool(self._connections) and any(True for _ in self._called(sender))

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver that wants it. Returns each with what it returned, or the exception that it raised."""
        if not self._connections:
            return []
        responses: list[tuple[Receiver, Any]] = []
        for receiver in list(self._called(sender)):
            try:
                response = receiver(signal=self, sender=sender, **named)
            except Exception as exc:  # noqa: BLE001 - receivers are user code
                _log.exception("Signal handler %r raised: %r", receiver, exc)
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _called(self, sender: Any) -> Iterable[Receiver]:
        named, is_dead = _named(sender), False
        for connection in self._connections:
            receiver = connection.find()
            if receiver is None:
                is_dead = True
            elif connection.wants(named):
                yield receiver
        if is_dead:
            with self._changing:
                self._keep(self._connections)

    def _keep(self, connections: tuple[Connection, ...]) -> None:
        """Have these, but for the dead, and a source if there are any."""
        had = bool(self._connections)
        self._connections = tuple(one for one in connections if one.find() is not None)
        if self._connections and not had and self._start is not None:
            self._start()
        elif had and not self._connections and self._stop is not None:
            self._stop()

    def __repr__(self) -> str:
        return f"<Signal: {self.name} providing_args={list(self.providing_args)!r}>"


class Persistent:
    """A receiver that is called again until it returns."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def __call__(self, **named: Any) -> Any:
        """Call it, as often as it takes."""
        pause = 0.0
        while True:
            try:
                return self.receiver(**named)
            except Exception as exc:  # noqa: BLE001 - receivers are user code
                pause = min(_LONGEST_PAUSE, pause + _RETRY_STEP)
                _log.error("Could not process signal receiver %r (%r). Retrying in %g seconds...",
                           self.receiver, exc, pause)  # fmt: skip
                clock.sleep(pause)

    def __repr__(self) -> str:
        return repr(self.receiver)


def _finder(receiver: Receiver, weak: bool, retry: bool) -> Callable[[], Receiver | None]:
    if retry:
        again = Persistent(receiver)
        return lambda: again
    if not weak:
        return lambda: receiver
    return weakref.WeakMethod(receiver) if isinstance(receiver, MethodType) else weakref.ref(receiver)


def _named(sender: Any) -> Any:
    """What stands for a sender: a task's name for the task, what it stands for in place of a proxy."""
    kind: type[Any] = sender.__class__
    if hasattr(kind, "_get_current_object"):
        sender = sender._get_current_object()
        kind = sender.__class__
    return sender.name if hasattr(kind, "apply_async") and isinstance(sender.name, str) else sender


def _key(receiver: Any, sender: Any, dispatch_uid: Hashable) -> Hashable:
    named = _named(sender)
    told = named if isinstance(named, str) else id(named)
    if dispatch_uid is not None:
        return dispatch_uid, told
    if isinstance(receiver, MethodType):
        return id(receiver.__self__), id(receiver.__func__), told
    return id(receiver), told


def _takes_names(receiver: Receiver) -> bool:
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        return True  # built in: nobody knows
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
