"""What servers answer with when they refuse, and how that becomes the errors that applications know."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from functools import partial
from typing import ClassVar, Final

from celeriac.exceptions import BackendError, BrokerRefused, BrokerUnavailable, ResultStoreUnavailable

_UNTRUSTED: Final = (
    "name the authority that signed it in the URL, ssl_ca_certs=FILE, and the host that it was made for"
)
#: What TLS says, where the same would be said to every further try: what to do about it.
_TLS_ADVICE: Final = {
    "CERTIFICATE_REQUIRED": "the server wants a certificate of ours: ssl_certfile=FILE and ssl_keyfile=FILE in the URL",
    "ALERT_HANDSHAKE_FAILURE": "it may want a certificate of ours, ssl_certfile=FILE and ssl_keyfile=FILE in the URL",
    "ALERT_BAD_CERTIFICATE": "the server does not accept our certificate, ssl_certfile of the URL",
    "ALERT_UNKNOWN_CA": "the server does not know who signed our certificate, ssl_certfile of the URL",
    "ALERT_CERTIFICATE_UNKNOWN": "the server does not accept our certificate, ssl_certfile of the URL",
    "ALERT_CERTIFICATE_EXPIRED": "our certificate, ssl_certfile of the URL, is too old for the server",
    "ALERT_UNSUPPORTED_CERTIFICATE": "the server does not accept our certificate, ssl_certfile of the URL",
    "WRONG_VERSION_NUMBER": "no TLS is spoken at that port",
}


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


def _tls_advice(error: Exception) -> str | None:
    """What to do where TLS fails, and would with every further try. By what its errors have: to load it costs 2 MB."""
    if getattr(error, "verify_code", 0):
        return _UNTRUSTED
    reason = str(getattr(error, "reason", None))
    return next((advice for word, advice in _TLS_ADVICE.items() if reason.endswith(word)), None)


@contextlib.contextmanager
def _turned(
    away: type[Exception], refused: type[Exception], library: type[Exception], place: str
) -> Generator[None]:
    """Errors of the wire, of the library that speaks over it and of the server as those of a place."""
    try:
        yield
    except ServerError as exc:
        kind = away if exc.passing else refused
        raise kind(f"{place}: {exc.explain()}") from exc
    except (OSError, library) as exc:
        if advice := _tls_advice(exc):
            raise refused(f"{place}: {exc}: {advice}") from exc
        raise away(f"{place}: {exc or type(exc).__name__}") from exc


#: As a broker's: what the library raises, and the place's name, are still to be given.
broker_errors: Final = partial(_turned, BrokerUnavailable, BrokerRefused)
#: As a result store's.
store_errors: Final = partial(_turned, ResultStoreUnavailable, BackendError)
