"""`app.conf`: where settings come from, which source wins, and how mistakes are told."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import timezone
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celeriac.configuration import Configuration
from celeriac.exceptions import ImproperlyConfigured, SettingHasNoEffect, UnknownSetting

MakeModule = Callable[..., str]


@pytest.fixture
def conf() -> Configuration:
    return Configuration({})


@pytest.fixture
def make_module(monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    def make(**values: Any) -> str:
        module = ModuleType("settings_of_a_test")
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    return make


def test_a_setting_is_read_by_attribute_item_and_old_name(conf: Configuration) -> None:
    conf.update(task_always_eager=True)
    assert conf.task_always_eager is conf["task_always_eager"] is True
    assert conf.CELERY_ALWAYS_EAGER is conf["CELERY_ALWAYS_EAGER"] is conf.CELERY_TASK_ALWAYS_EAGER is True
    assert "CELERY_ALWAYS_EAGER" in conf
    assert "task_allways_eager" not in conf


@pytest.mark.parametrize("wrong", ["task_acks_lat", "CELERY_ACK_LATE", "TASK_ACKS_LATE"])
def test_a_misspelt_setting_is_an_error_on_read_and_write(conf: Configuration, wrong: str) -> None:
    for attempt in (
        lambda: getattr(conf, wrong),
        lambda: conf[wrong],
        lambda: setattr(conf, wrong, True),
        lambda: conf.update({wrong: True}),
        lambda: conf.add_defaults({wrong: True}),
        lambda: conf.config_from_object({wrong: True}),
    ):
        with pytest.raises(
            UnknownSetting, match=r"is not a setting.* Did you mean '(task_acks_late|CELERY_ACKS_LATE)'"
        ):
            attempt()


def test_a_misspelt_setting_of_a_module_names_the_module(
    conf: Configuration, make_module: MakeModule
) -> None:
    name = make_module(task_acks_lat=True)
    with pytest.raises(UnknownSetting) as caught:
        conf.config_from_object(name)
    assert str(caught.value) == (
        f"'task_acks_lat' is not a setting (given by: module {name}). Did you mean 'task_acks_late'?"
    )


def test_what_a_settings_module_imports_and_defines_is_not_taken_for_settings(
    conf: Configuration, make_module: MakeModule
) -> None:
    def helper() -> None: ...

    conf.config_from_object(
        make_module(
            os=sys, timezone=timezone, helper=helper, _draft=1, DEBUG=True, TIME_ZONE="UTC", worker_lease=5
        )
    )
    assert conf.without_defaults() == {"worker_lease": 5.0}


@pytest.mark.parametrize("wrong", ["CELERY_ACKS_LAATE", "BROKER_URI", "CELERYD_CONCURENCY", "ENABLE_UTCC"])
def test_a_misspelt_old_name_in_a_module_is_an_error(
    conf: Configuration, make_module: MakeModule, wrong: str
) -> None:
    with pytest.raises(UnknownSetting, match="Did you mean"):
        conf.config_from_object(make_module(**{wrong: 1}))


@pytest.mark.parametrize("name", ["CELERY_XYZZY", "CELERYD_XYZZY"])
def test_a_name_of_celerys_kind_that_it_never_had_is_an_error(
    conf: Configuration, make_module: MakeModule, name: str
) -> None:
    with pytest.raises(UnknownSetting, match=f"'{name}' is not a setting"):
        conf.config_from_object(make_module(**{name: 1}))


def test_a_class_with_inherited_settings_is_read(conf: Configuration) -> None:
    class Base:
        task_default_queue = "base"

    class Production(Base):
        CELERYD_CONCURRENCY = 4

        def helper(self) -> None: ...

    conf.config_from_object(Production)
    assert (conf.task_default_queue, conf.worker_concurrency) == ("base", 4)
    assert conf.source_of("worker_concurrency") == "object Production"


def test_a_function_may_be_a_route(conf: Configuration) -> None:
    def route(name: str) -> str:
        return name

    conf.config_from_object(SimpleNamespace(task_routes=route))
    assert conf.task_routes is route


def test_a_module_is_named_by_a_path_an_attribute_or_an_environment_variable(make_module: MakeModule) -> None:
    name = make_module(Config=SimpleNamespace(worker_lease=5), worker_lease=7)
    for path, lease in ((f"{name}:Config", 5.0), (f"{name}.Config", 5.0), (name, 7.0)):
        by_variable = Configuration({"CELERY_CONFIG_MODULE": path})
        assert by_variable.config_from_environment_module()
        by_path = Configuration({})
        by_path.config_from_object(path)
        assert by_variable.worker_lease == by_path.worker_lease == lease
    assert not Configuration({}).config_from_environment_module()


def test_a_module_that_is_not_there_is_an_error(conf: Configuration) -> None:
    with pytest.raises(ModuleNotFoundError):
        conf.config_from_object("no_such_module_of_settings")
    with pytest.raises(ImproperlyConfigured, match=r"without '\.py': 'celeryconfig'"):
        conf.config_from_object("celeryconfig.py")


def test_a_namespace_reads_django_settings_and_nothing_else_of_them(conf: Configuration) -> None:
    django = SimpleNamespace(
        DEBUG=True, BROKER_URL="ignored", lower=1, CELERY_BROKER_URL="redis://h", CELERY_ALWAYS_EAGER=True,
        CELERY_TASK_TIME_LIMIT=5, CELERY_worker_lease=9,
    )  # fmt: skip
    conf.config_from_object(django, namespace="CELERY")
    assert conf.without_defaults() == {
        "broker_url": "redis://h", "task_always_eager": True, "task_time_limit": 5.0, "worker_lease": 9.0,
    }  # fmt: skip


def test_a_namespace_works_on_a_dict_and_with_another_name(conf: Configuration) -> None:
    conf.config_from_object({"DEBUG": 1, "QUEUE_TASK_ACKS_LATE": False}, namespace="QUEUE")
    assert conf.without_defaults() == {"task_acks_late": False}


def test_a_misspelt_name_in_a_namespace_is_an_error(conf: Configuration) -> None:
    with pytest.raises(UnknownSetting, match="Did you mean 'CELERY_TASK_ACKS_LATE'"):
        conf.config_from_object(SimpleNamespace(CELERY_TASK_ACKS_LAT=True), namespace="CELERY")


def test_two_names_of_one_setting_may_agree_but_not_contradict(conf: Configuration) -> None:
    conf.update(task_acks_late=False, CELERY_ACKS_LATE=False)
    with pytest.raises(ImproperlyConfigured, match="'task_acks_late' and 'CELERY_ACKS_LATE' are two names"):
        conf.update(task_acks_late=False, CELERY_ACKS_LATE=True)


def test_the_stronger_source_wins_whenever_it_is_read() -> None:
    conf = Configuration({"CELERIAC_WORKER_LEASE": "3"})
    seen = [conf.worker_lease]
    conf.config_from_cmdline(["worker_concurrency=6"])
    acts: tuple[Callable[[], None], ...] = (
        lambda: conf.add_defaults({"worker_lease": 1, "worker_concurrency": 1}),
        lambda: conf.config_from_object({"worker_lease": 2, "worker_concurrency": 2}),
        lambda: conf.update(worker_lease=4, worker_concurrency=4),
        lambda: conf.config_from_cmdline([".lease=5"]),
        lambda: conf.update(worker_lease=6),
    )
    for act in acts:
        act()
        seen.append(conf.worker_lease)
    assert seen == [3, 3, 3, 4, 5, 5]
    assert conf.worker_concurrency == 6
    assert conf.source_of("CELERYD_CONCURRENCY") == "command line"


def test_each_value_knows_its_source(make_module: MakeModule) -> None:
    conf = Configuration({"CELERY_BROKER_URL": "redis://env", "CELERIAC_TASK_ACKS_LATE": "0"})
    name = make_module(worker_lease=1)
    conf.config_from_object(name)
    conf.add_defaults(lambda: {"result_expires": 1})
    conf.write({"task_default_queue": "q"}, "the application's constructor")
    with pytest.warns(SettingHasNoEffect, match="not published in this version"):
        conf.config_from_flags({"worker_concurrency": "8", "worker_send_task_events": True})
    assert {name: conf.source_of(name) for name in conf.without_defaults()} == {
        "broker_url": "environment variable CELERY_BROKER_URL",
        "task_acks_late": "environment variable CELERIAC_TASK_ACKS_LATE",
        "worker_lease": f"module {name}",
        "result_expires": "add_defaults",
        "task_default_queue": "the application's constructor",
        "worker_concurrency": "command line flag --concurrency",
        "worker_send_task_events": "command line flag --task-events",
    }
    assert conf.source_of("timezone") == "default"
    assert conf.changes == {
        "task_default_queue": "q",
        "worker_concurrency": 8,
        "worker_send_task_events": True,
    }


def test_celeriacs_own_variable_wins_over_celerys_and_an_empty_one_counts_for_nothing() -> None:
    both = {"CELERIAC_BROKER_URL": "redis://ours", "CELERY_BROKER_URL": "redis://theirs"}
    assert Configuration(both).broker_url == "redis://ours"
    assert Configuration({**both, "CELERIAC_BROKER_URL": ""}).broker_url == "redis://theirs"
    assert Configuration({"CELERY_BROKER_URL": ""}).broker_url == "sqlite:///celeriac.sqlite"


@pytest.mark.parametrize("prefix", ["CELERY", "CELERIAC"])
@pytest.mark.parametrize("name", ["broker_url", "broker_read_url", "broker_write_url", "result_backend"])
def test_urls_of_the_environment_win_over_the_program_and_lose_to_the_command_line(
    prefix: str, name: str
) -> None:
    conf = Configuration({f"{prefix}_{name.upper()}": "redis://env"})
    conf.write({name: "redis://program"}, "the application's constructor")
    conf[name] = "redis://later"
    assert conf[name] == "redis://env"
    assert conf.source_of(name) == f"environment variable {prefix}_{name.upper()}"
    conf.config_from_flags({name: "redis://flag"})
    assert conf[name] == "redis://flag"


def test_the_program_wins_over_other_variables() -> None:
    conf = Configuration({"CELERIAC_WORKER_LEASE": "7"})
    conf.worker_lease = 8
    assert conf.worker_lease == 8


@pytest.mark.parametrize("wrong", ["CELERIAC_TASK_ACKS_LAT", "CELERIAC_IMPORT", "CELERIAC_TIMEZON"])
def test_a_misspelt_variable_is_an_error(wrong: str) -> None:
    with pytest.raises(UnknownSetting, match=r"Did you mean 'CELERIAC_(TASK_ACKS_LATE|IMPORTS|TIMEZONE)'"):
        Configuration({wrong: "1"})


def test_a_variable_of_a_settings_kind_that_is_near_none_is_an_error() -> None:
    with pytest.raises(UnknownSetting, match="'CELERIAC_WORKER_XYZZY' is not a setting"):
        Configuration({"CELERIAC_WORKER_XYZZY": "1"})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    others = {
        "CELERIAC_APP": "proj", "CELERIAC_TEST_REDIS": "x", "CELERIAC_WORKER_SERVICE_HOST": "10.0.0.1",
        "CELERIAC_WORKER_PORT_80_TCP_ADDR": "10.0.0.1", "CELERIAC_WORKER_PORT": "tcp://x",
        "CELERIAC_NAME": "x", "CELERY_TASK_ACKS_LATE": "0", "PATH": "x",
    }  # fmt: skip
    assert Configuration(others).without_defaults() == {}


def test_a_mistyped_variable_names_the_variable() -> None:
    with pytest.raises(ImproperlyConfigured, match="given by: environment variable CELERIAC_TASK_ACKS_LATE"):
        Configuration({"CELERIAC_TASK_ACKS_LATE": "yes please"})


@pytest.mark.parametrize("wrong", ["worker.prefetch_multiplyer=1", "task_acks_lat=no"])
def test_a_misspelt_pair_on_the_command_line_is_an_error(conf: Configuration, wrong: str) -> None:
    with pytest.raises(UnknownSetting, match=r"command line.*Did you mean"):
        conf.config_from_cmdline([wrong])


def test_pairs_on_the_command_line_are_read_as_their_types(conf: Configuration) -> None:
    conf.config_from_cmdline(["worker.prefetch_multiplier=1", "task_acks_late=no", ".lease=5"])
    assert conf.without_defaults() == {
        "worker_prefetch_multiplier": 1, "task_acks_late": False, "worker_lease": 5.0,
    }  # fmt: skip
    with pytest.raises(ImproperlyConfigured, match="write name=value"):
        conf.config_from_cmdline(["task_acks_late"])


def test_a_write_with_one_mistake_changes_nothing(conf: Configuration) -> None:
    with pytest.raises(ImproperlyConfigured):
        conf.update(task_acks_late=False, worker_lease="long")
    assert conf.without_defaults() == {}


def test_a_setting_without_effect_warns_once_and_says_why(conf: Configuration) -> None:
    with pytest.warns(
        SettingHasNoEffect, match="CELERYD_STATE_DB has no effect: revoked tasks are remembered"
    ):
        conf.config_from_object({"CELERYD_STATE_DB": "a"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        conf.CELERYD_STATE_DB = "b"
    assert caught == []
    assert conf.worker_state_db == "b"
    assert "worker_state_db" not in conf.table()


def test_a_visibility_timeout_warns_and_the_other_options_are_kept(conf: Configuration) -> None:
    with pytest.warns(
        SettingHasNoEffect, match=r"broker_transport_options\['visibility_timeout'\] has no effect"
    ):
        conf.broker_transport_options = {"visibility_timeout": 3600, "global_keyprefix": "x"}
    assert conf.broker_transport_options["global_keyprefix"] == "x"


def test_a_broker_host_without_a_url_is_refused_because_it_would_be_missed(conf: Configuration) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"'BROKER_HOST' is not used any more.*Set 'broker_url' instead"
    ):
        conf.config_from_object({"BROKER_HOST": "redis.internal"})


def test_a_broker_host_beside_a_url_is_one_more_setting_without_effect(conf: Configuration) -> None:
    with pytest.warns(SettingHasNoEffect, match="CELERY_BROKER_HOST has no effect: `broker_url` says it"):
        conf.config_from_object(
            {"CELERY_BROKER_HOST": "h", "CELERY_BROKER_URL": "redis://h"}, namespace="CELERY"
        )


def test_frozen_settings_refuse_writes_and_say_what_froze_them(conf: Configuration) -> None:
    conf.freeze("the worker started")
    conf.freeze("the first send")
    attempts: tuple[Callable[[], None], ...] = (
        lambda: conf.update(task_acks_late=False),
        lambda: setattr(conf, "task_acks_late", False),
        lambda: conf.config_from_cmdline(["task_acks_late=no"]),
    )
    for attempt in attempts:
        with pytest.raises(
            ImproperlyConfigured, match=r"'task_acks_late' cannot be set now.*since the worker started"
        ):
            attempt()
    assert conf.task_acks_late is True


def test_passwords_are_masked_in_every_way_of_printing() -> None:
    conf = Configuration({"CELERIAC_RESULT_BACKEND": "redis://:hunter2@r"})
    with pytest.warns(SettingHasNoEffect, match="not signed in this version"):
        conf.update(
            broker_url="redis://me:hunter2@h/0", security_key_password=b"hunter2",
            broker_transport_options={"sentinel_kwargs": {"password": "hunter2"}},
        )  # fmt: skip
    printed = f"{conf!r} {conf.humanize(with_defaults=True)} {conf.table()} {conf.rows()}"
    assert "hunter2" not in printed
    assert "redis://me:********@h/0" in printed
    assert conf.table(censored=False)["broker_url"] == conf.broker_url == "redis://me:hunter2@h/0"


def test_rows_show_value_source_and_default_of_every_setting(conf: Configuration) -> None:
    conf.update(task_acks_late=False)
    rows = {row.name: row for row in conf.rows()}
    row = rows["task_acks_late"]
    assert (row.value, row.source, row.default) == ("False", "the program", "True")
    assert list(rows) == list(conf) == list(conf.keys())
    assert len(rows) == len(conf)


def test_a_schedule_added_in_place_belongs_to_one_application() -> None:
    one, other = Configuration({}), Configuration({})
    one.beat_schedule["x"] = {"task": "t"}
    assert one.beat_schedule == {"x": {"task": "t"}}
    assert other.beat_schedule == {}


def test_get_gives_its_default_for_a_name_that_is_no_setting(conf: Configuration) -> None:
    assert conf.get("redbeat_url", "x") == "x"
    assert conf.get("task_default_queue", "x") == "celery"
    assert conf.value_set_for("task_default_queue") is False
    assert conf.find_option("CELERY_ACKS_LATE").name == "task_acks_late"


def test_reading_a_setting_is_reading_an_attribute(conf: Configuration) -> None:
    assert vars(conf)["task_acks_late"] is True


def test_a_setting_that_nothing_reads_yet_is_told_when_it_is_set(conf: Configuration) -> None:
    with pytest.warns(SettingHasNoEffect, match="beat_schedule has no effect: there is no `celeriac beat`"):
        conf.beat_schedule = {"every": {"task": "t", "schedule": 3}}
    conf.worker_enable_remote_control = True  # its default: nothing to tell
