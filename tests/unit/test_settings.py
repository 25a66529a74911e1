"""The tables of settings: complete, typed, and in step with the reference page."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.exceptions import ImproperlyConfigured
from celeriac.setting_sources import current_name
from celeriac.settings import OLD_NAMES, SETTINGS, mask
from celeriac.settings_without_effect import OLD_NAMES_WITHOUT_EFFECT, WITHOUT_EFFECT

HERE = Path(__file__).parent


def celery_settings() -> Iterator[tuple[str, str]]:
    for line in (HERE / "celery_settings.txt").read_text(encoding="utf-8").splitlines():
        name, old = line.split()
        yield name, old


def check(name: str, value: Any) -> Any:
    return SETTINGS[name].check(value, "a test")


def test_every_setting_of_celerys_is_known_under_its_new_and_its_old_name() -> None:
    for name, old in celery_settings():
        assert current_name(name) == name
        assert old == "-" or current_name(old) == name


def test_no_name_stands_for_two_settings() -> None:
    assert not SETTINGS.keys() & WITHOUT_EFFECT.keys()
    assert not OLD_NAMES.keys() & OLD_NAMES_WITHOUT_EFFECT.keys()
    for old, name in {**OLD_NAMES, **OLD_NAMES_WITHOUT_EFFECT}.items():
        bare = old.removeprefix("CELERY_").lower()
        assert old == bare.upper() or bare == name or (bare not in SETTINGS and bare not in WITHOUT_EFFECT)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_default_is_a_value_of_its_own_setting(name: str) -> None:
    row = SETTINGS[name]
    assert row.check(row.default, "a test") == row.default
    assert row.help.endswith(".")
    assert row.help[0].isupper()


def test_no_flag_is_used_twice() -> None:
    flags = [row.flag for row in SETTINGS.values() if row.flag]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_late", "yes please"),
        ("task_acks_late", 1),
        ("task_acks_late", None),
        ("worker_concurrency", True),
        ("worker_concurrency", 0),
        ("worker_concurrency", "4"),
        ("worker_concurrency", 2.5),
        ("task_time_limit", -1),
        ("task_time_limit", timedelta(seconds=-1)),
        ("task_time_limit", float("nan")),
        ("result_expires", True),
        ("worker_prefetch_multiplier", "autp"),
        ("worker_imports", "laazy"),
        ("worker_redirect_stdouts_level", "LOUD"),
        ("task_default_rate_limit", "10/week"),
        ("accept_content", "json, yaml"),
        ("accept_content", [1]),
        ("imports", 7),
        ("beat_schedule", [("a", 1)]),
        ("broker_url", ""),
        ("broker_url", None),
        ("broker_use_ssl", "on"),
    ],
)
def test_a_mistyped_value_is_refused_with_its_name_and_source(name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^'{name}' must be .+, not .+ \(given by: a test\)"):
        check(name, value)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("result_expires", timedelta(hours=1), 3600.0),
        ("result_expires", 60, 60.0),
        ("result_expires", None, None),
        ("worker_prefetch_multiplier", "auto", "auto"),
        ("worker_prefetch_multiplier", 0, 0),
        ("accept_content", ["json"], ("json",)),
        ("accept_content", {"yaml", "json"}, ("json", "yaml")),
        ("imports", "proj.tasks", ("proj.tasks",)),
        ("broker_url", ["redis://a", "redis://b"], "redis://a;redis://b"),
        ("worker_redirect_stdouts_level", "info", "INFO"),
        ("worker_redirect_stdouts_level", 30, 30),
        ("task_default_rate_limit", "100/m", "100/m"),
        ("beat_schedule_filename", Path("a/b"), "a/b"),
        ("security_key_password", b"x", b"x"),
    ],
)
def test_a_value_is_kept_as_the_package_uses_it(name: str, value: object, kept: object) -> None:
    assert check(name, value) == kept


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("task_acks_late", "No", False),
        ("task_acks_late", "1", True),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "none", None),
        ("worker_prefetch_multiplier", "auto", "auto"),
        ("task_time_limit", "1.5", 1.5),
        ("result_backend_max_retries", "inf", float("inf")),
        ("accept_content", "json, yaml", ("json", "yaml")),
        ("broker_use_ssl", "true", True),
        ("broker_transport_options", '{"global_keyprefix": "x"}', {"global_keyprefix": "x"}),
        ("task_routes", '{"a": "b"}', {"a": "b"}),
    ],
)
def test_a_text_is_read_as_its_settings_type(name: str, text: str, kept: object) -> None:
    assert SETTINGS[name].read(text, "a test") == kept


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("task_acks_late", "yes please"),
        ("worker_concurrency", "many"),
        ("worker_lease", "30s"),
        ("beat_schedule", "x"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(name: str, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"'{name}' must be"):
        SETTINGS[name].read(text, "a test")


def test_a_mistyped_word_is_answered_with_the_nearest() -> None:
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'lazy'"):
        check("worker_imports", "lasy")


@given(st.integers(min_value=0))
def test_seconds_read_from_text_are_the_seconds_given_in_python(number: int) -> None:
    row = SETTINGS["worker_shutdown_timeout"]
    if number < 10**300:
        assert row.read(str(number), "a test") == row.check(number, "a test")


def test_a_refused_value_shows_no_password() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        check("broker_transport_options", "redis://:hunter2@host")
    with pytest.raises(ImproperlyConfigured) as caught_too:
        check("security_key_password", ["hunter2"])
    assert "hunter2" not in f"{caught.value}{caught_too.value}"


def test_secrets_are_masked_however_deep_they_lie() -> None:
    shown = mask(
        {
            "a": [{"password": "hunter2", "url": "redis://:hunter2@h"}],
            "sentinel_kwargs": {"PASSWORD": "hunter2"},
        }
    )
    assert shown == {
        "a": [{"password": "********", "url": "redis://:********@h"}],
        "sentinel_kwargs": {"PASSWORD": "********"},
    }


def test_the_reference_page_is_up_to_date() -> None:
    script = HERE.parents[1] / "docs" / "generate_settings.py"
    module = runpy.run_path(str(script))
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), f"run: python {script}"


def test_the_reference_page_describes_every_setting() -> None:
    page = (HERE.parents[1] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in SETTINGS if f"### `{name}`\n" not in page] == []
    assert [name for name in WITHOUT_EFFECT if f"`{name}`" not in page] == []
