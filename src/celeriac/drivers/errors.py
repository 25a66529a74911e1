"""What servers answer with when they refuse, and how that becomes the errors that applications know."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import ClassVar

from celeriac.exceptions import BackendError, BrokerRefused, BrokerUnavailable, ResultStoreUnavailable


class ServerError(Exception):
    """The server answered with an error. `code` is its own word or number for it, or ours where that says more."""

    #: By code: what to do about it.
    advice: ClassVar[Mapping[str, str]]

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed soon."""
        raise NotImplementedError

    def explain(self) -> str:
        """What it means and what to do about it."""
        advice = self.advice.get(self.code)
        return f"{self}: {advice}" if advice else str(self)


@contextlib.contextmanager
def broker_errors(library: type[Exception], place: str) -> Generator[None]:
    """Errors of the wire, of the library that speaks over it and of the server as a broker's."""
    try:
        yield
    except ServerError as exc:
        kind = BrokerUnavailable if exc.passing else BrokerRefused
        raise kind(f"{place}: {exc.explain()}") from exc
    except (OSError, library) as exc:
        raise BrokerUnavailable(f"{place}: {exc or type(exc).__name__}") from exc


@contextlib.contextmanager
def store_errors(library: type[Exception], place: str) -> Generator[None]:
    """The same as a result store's."""
    try:
        yield
    except ServerError as exc:
        kind = ResultStoreUnavailable if exc.passing else BackendError
        raise kind(f"{place}: {exc.explain()}") from exc
    except (OSError, library) as exc:
        raise ResultStoreUnavailable(f"{place}: {exc or type(exc).__name__}") from exc
