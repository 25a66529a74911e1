"""URLs are taken apart as their adapters need them, and never shown with a password."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.exceptions import ImproperlyConfigured
from celeriac.urls import mask_url, parse, split_urls


def test_a_redis_url_is_taken_apart() -> None:
    url = parse("rediss://me:s%40crt@cache.example:6380/2?ssl_cert_reqs=required&timeout=")
    assert (url.scheme, url.username, url.password) == ("rediss", "me", "s@crt")
    assert (url.host, url.port, url.path) == ("cache.example", 6380, "/2")
    assert url.query == {"ssl_cert_reqs": "required", "timeout": ""}


def test_a_url_without_a_server_has_no_host() -> None:
    assert parse("memory://").host is None
    assert parse("sqlite:///celeriac.sqlite").path == "/celeriac.sqlite"
    assert parse("sqlite:////var/lib/c.sqlite").path == "//var/lib/c.sqlite"


def test_every_host_of_a_sentinel_url_is_kept() -> None:
    assert parse("redis+sentinel://:pw@a:26379,b:26380/0").hosts == (("a", 26379), ("b", 26380))


def test_an_ipv6_host_may_have_a_port() -> None:
    url = parse("redis://[::1]:6379/0")
    assert (url.host, url.port) == ("::1", 6379)
    assert repr(url) == "redis://[::1]:6379/0"


@pytest.mark.parametrize(
    "text", ["redis", "://host", "redis:/host", "", "redis://host:port/0", "redis://h:99999"]
)
def test_what_is_not_a_url_is_refused(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="is not a URL"):
        parse(text)


def test_an_unencoded_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ImproperlyConfigured, match="percent-encoded") as caught:
        parse("redis://me:hun/ter2@host/0")
    assert "hun" not in str(caught.value)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@host:6379/0", "redis://:********@host:6379/0"),
        ("amqp://me:hunter2@host//", "amqp://me:********@host//"),
        ("redis://me:hunter2/x?#@y@host/0", "redis://me:********@host/0"),
        ("redis://a:hunter2@h1;redis://b:hunter2@h2", "redis://a:********@h1;redis://b:********@h2"),
        ("sentinel://:hunter2@h1:1;:hunter2@h2:2", "sentinel://:********@h2:2"),
        ("postgresql://host/db?user=me&password=hunter2", "postgresql://host/db?user=me&password=********"),
        ("redis://a?password=hunter2;redis://b/0?x=1", "redis://a?password=********;redis://b/0?x=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("sqlite:////home/me@work/a:b.sqlite", "sqlite:////home/me@work/a:b.sqlite"),
        ("not a url", "not a url"),
    ],
)
def test_a_masked_url_shows_all_but_its_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(st.text(min_size=6), st.booleans())
def test_no_password_is_ever_shown(secret: str, encoded: bool) -> None:
    password = f"<{secret}>"
    url = f"redis://me:{quote(password, safe='') if encoded else password}@host/0"
    assert mask_url(url) == "redis://me:********@host/0"


@given(st.text(min_size=6))
def test_a_parsed_url_gives_the_password_back_and_prints_none(secret: str) -> None:
    password = f"<{secret}>"
    url = parse(f"redis://me:{quote(password, safe='')}@host/0?password={quote(password, safe='')}")
    assert url.password == password
    assert repr(url) == str(url) == "redis://me:********@host/0?password=********"


def test_a_list_of_urls_is_split_in_order() -> None:
    assert split_urls("redis://a/0;redis://b/0; redis://c;") == ("redis://a/0", "redis://b/0", "redis://c")
    assert split_urls("sentinel://a:1;b:2") == ("sentinel://a:1;b:2",)
