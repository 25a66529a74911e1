"""Broker and result store URLs: taken apart once, and shown without their passwords.

`parse` is what an adapter calls on its URL; `mask_url` is what everyone calls before a URL goes into a log
line, an error or a table. Where a URL can be read in two ways, `mask_url` hides too much, not too little.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

import msgspec

from celeriac.exceptions import ImproperlyConfigured

MASK = "********"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://", re.ASCII)
# Greedy up to the last "@": a password that was not percent-encoded may hold "/", "?", "#" or "@" itself.
_CREDENTIALS = re.compile(r"(://[^:/@?#]*):(.*)@", re.DOTALL)
_SECRET_NAME = re.compile("pass|secret|token|credential", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&])([^=&]*)=([^&]*?)(?=&|[;,]?\Z)", re.DOTALL)
_NEXT_URL = re.compile(r"(?<=[;,])(?=\s*[A-Za-z][A-Za-z0-9+.\-]*://)")


class Url(msgspec.Struct, frozen=True):
    """A URL taken apart; percent-encoded parts are decoded. Printing it shows no password."""

    scheme: str
    username: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    query: dict[str, str] = {}

    @property
    def host(self) -> str | None:
        """The first host, or None where the URL names none (`memory://`, `sqlite:///file`)."""
        return self.hosts[0][0] if self.hosts else None

    @property
    def port(self) -> int | None:
        """The first host's port, or None where the URL gives none."""
        return self.hosts[0][1] if self.hosts else None

    def __repr__(self) -> str:
        user = self.username or ""
        secret = f":{MASK}" if self.password is not None else ""
        at = "@" if self.username is not None or self.password is not None else ""
        places = ",".join(_place(host, port) for host, port in self.hosts)
        query = "&".join(f"{key}={MASK if _is_secret(key) else value}" for key, value in self.query.items())
        return f"{self.scheme}://{user}{secret}{at}{places}{self.path}" + (f"?{query}" if query else "")

    __str__ = __repr__


def mask_url(url: str) -> str:
    """The URL, or list of URLs separated by `;`, with every password replaced by `********`."""
    pieces = _NEXT_URL.split(url)
    masked = (_CREDENTIALS.sub(rf"\g<1>:{MASK}@", piece) for piece in pieces)
    return "".join(_PARAMETER.sub(_mask_parameter, piece) for piece in masked)


def split_urls(urls: str) -> tuple[str, ...]:
    """The single URLs of a `;` list, in order: the first is tried first."""
    return tuple(text for piece in _NEXT_URL.split(urls) if (text := piece.strip().rstrip(";,")))


def parse(url: str) -> Url:
    """Take one URL apart.

    The path keeps its leading slash: `sqlite:///file` has the path `/file`, and `sqlite:////var/file` the
    path `//var/file`. Several hosts (`redis+sentinel://a:1,b:2/0`) are all in `hosts`.

    Raises:
        ImproperlyConfigured: there is no `scheme://`, or a port is not a number between 0 and 65535.
    """
    match = _SCHEME.match(url)
    if match is None:
        raise ImproperlyConfigured(
            f"{mask_url(url)!r} is not a URL: it must begin with a scheme, as in 'redis://'"
        )
    rest = url[match.end() :]
    authority_end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    username, password, places = _split_credentials(rest[:authority_end])
    path, _, query = rest[authority_end:].partition("?")
    return Url(
        scheme=match[1].lower(),
        username=username,
        password=password,
        hosts=tuple(_split_place(place, url) for place in re.split("[,;]", places) if place),
        path=unquote(path),
        query=dict(parse_qsl(query.partition("#")[0], keep_blank_values=True)),
    )


def _split_credentials(authority: str) -> tuple[str | None, str | None, str]:
    credentials, at, places = authority.rpartition("@")
    if not at:
        return None, None, places
    username, colon, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) if colon else None, places


def _split_place(place: str, url: str) -> tuple[str, int | None]:
    host, bracket, tail = place.rpartition("]")
    host, colon, port = (host.lstrip("["), tail[:1], tail[1:]) if bracket else place.partition(":")
    if not colon or not port:
        return unquote(host), None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        shown = f"{port!r}" if "@" not in url else "what follows the host"
        raise ImproperlyConfigured(
            f"{mask_url(url)!r} is not a URL: {shown} is not a port number. "
            "If the password holds one of / ? # @ write it percent-encoded: %2F %3F %23 %40"
        )
    return unquote(host), int(port)


def _is_secret(parameter: str) -> bool:
    return _SECRET_NAME.search(parameter) is not None


def _mask_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={MASK}" if _is_secret(found[2]) else found[0]


def _place(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
