"""The account can fail: for each promise a story in which it is broken, beside one in which it is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.account import Deed, Letter, Run, Sent, Story, Terms, Verdict, judge, read_runs

TERMS = Terms(lease=3.0, max_deliveries=3, shutdown_timeout=2.0, early=frozenset({"early"}))
FIRST = Run("a", "w1", 10, begin=1.0, fence=1, retries=0, crashes=0, end=1.5)
AGAIN = Run("a", "w2", 20, begin=6.0, fence=2, retries=0, crashes=1, end=6.5)
ALWAYS = float("inf")


def tell(*runs: Run, kind: str = "short", state: str | None = "SUCCESS", deeds: tuple[Deed, ...] = (),
         letter: Letter | None = None, sure: bool = True, doubles: bool = False) -> Verdict:  # fmt: skip
    ends = {} if state is None else {"a": (state, 1)}
    sent = [Sent("a", kind, 0.9, 0.95, sure, None, 1)]
    return judge(
        Story(sent, runs, deeds, ends, {"a": letter} if letter else {}, replace(TERMS, doubles=doubles))
    )


def test_one_run_with_its_result_is_good() -> None:
    assert tell(FIRST).is_good


def test_a_task_without_an_end_is_told() -> None:
    assert list(tell(state=None).broken) == ["no terminal state"]
    assert list(tell(FIRST, state="RETRY").broken) == ["no terminal state"]


def test_nothing_is_asked_of_what_nobody_was_told_is_stored() -> None:
    assert tell(state=None, sure=False).is_good


def test_a_success_without_a_whole_run_is_told() -> None:
    assert list(tell(state="SUCCESS").broken) == ["a late-acknowledged task was lost"]
    assert list(tell(replace(FIRST, end=None)).broken) == ["a late-acknowledged task was lost"]


def test_a_failure_of_what_cannot_fail_is_told_unless_it_is_acknowledged_early() -> None:
    assert list(tell(FIRST, state="FAILURE").broken) == ["a late-acknowledged task was lost"]
    assert tell(FIRST, state="FAILURE", kind="early").is_good


def test_an_early_acknowledged_task_may_not_begin_twice_whatever_the_reason() -> None:
    killed = Deed("child", "KILL", "w1", 10, 1.2)
    assert list(tell(replace(FIRST, end=None), AGAIN, kind="early", deeds=(killed,)).broken) == [
        "an early-acknowledged task ran twice"
    ]


@pytest.mark.parametrize(
    "deed",
    [
        Deed("child", "KILL", "w1", 10, 1.2),
        Deed("child", "KILL", "w1", 10, 0.95),
        Deed("supervisor", "KILL", "w1", 9, 0.5),
        Deed("supervisor", "STOP", "w1", 9, 0.5, 5.0),
        Deed("network", "hold", "w1", 0, 0.5, 5.0),
        Deed("supervisor", "TERM", "w1", 9, 1.1),
    ],
    ids=lambda deed: f"{deed.target} {deed.how} {deed.since}",
)
def test_a_duplicate_is_explained_by(deed: Deed) -> None:
    assert tell(FIRST, AGAIN, deeds=(deed,)).is_good


@pytest.mark.parametrize(
    "deed",
    [
        Deed("child", "KILL", "w1", 11, 1.2),
        Deed("child", "KILL", "w1", 10, 0.5),
        Deed("child", "KILL", "w1", 10, 7.0),
        Deed("child", "STOP", "w1", 10, 1.2, 9.0),
        Deed("template", "KILL", "w1", 8, 1.2),
        Deed("supervisor", "KILL", "w2", 19, 0.5),
        Deed("supervisor", "KILL", "w1", 9, 5.5),
        Deed("supervisor", "STOP", "w1", 9, 1.0, 1.9),
        Deed("network", "delay", "w1", 0, 0.5, 5.0),
        Deed("server", "KILL", "", 0, 1.1, 5.0),
        Deed("clock", "3600", "", 0, 1.1, 5.0),
        Deed("network", "cut", "sender", 0, 0.92, 0.93),
    ],
    ids=lambda deed: f"{deed.target} {deed.how} {deed.worker} {deed.pid} {deed.since}",
)
def test_a_duplicate_is_not_explained_by(deed: Deed) -> None:
    assert list(tell(FIRST, AGAIN, deeds=(deed,)).broken) == ["a duplicate without a reason"]


def test_a_second_stop_explains_a_duplicate_at_once_and_a_first_one_does_not() -> None:
    stops = [Deed("supervisor", "TERM", "w1", 9, at) for at in (5.1, 5.9, 7.0)]
    assert tell(FIRST, AGAIN, deeds=tuple(stops[:2])).is_good
    for told in (stops[:1], stops[1:]):
        assert list(tell(FIRST, AGAIN, deeds=tuple(told)).broken) == ["a duplicate without a reason"]


def test_a_killed_server_explains_a_duplicate_where_it_may_double_what_it_moves() -> None:
    kill, again = Deed("server", "KILL", "", 0, 1.1, 5.0), replace(AGAIN, crashes=FIRST.crashes)
    assert tell(FIRST, again, deeds=(kill,), doubles=True).is_good
    for deed in (
        replace(kill, how="TERM"),
        replace(kill, since=0.5, until=0.8),
        replace(kill, since=again.begin + 1),
    ):
        assert list(tell(FIRST, again, deeds=(deed,), doubles=True).broken) == [
            "a duplicate without a reason"
        ]
    assert not tell(FIRST, again, deeds=(kill,)).is_good
    assert not tell(FIRST, replace(again, crashes=FIRST.crashes + 1), deeds=(kill,), doubles=True).is_good


def test_a_send_that_was_repeated_explains_a_duplicate_where_the_server_cannot_know_it() -> None:
    again = replace(AGAIN, crashes=FIRST.crashes)
    cut = Deed("network", "cut", "sender", 0, 0.92, 0.93)
    for deed in (cut, Deed("server", "TERM", "", 0, 0.92, 0.93)):
        assert tell(FIRST, again, deeds=(deed,), doubles=True).is_good
        assert tell(FIRST, again, kind="early", deeds=(deed,), doubles=True).is_good
        assert not tell(FIRST, again, deeds=(deed,)).is_good
        assert not tell(FIRST, AGAIN, deeds=(deed,), doubles=True).is_good
    for deed in (replace(cut, since=0.96), replace(cut, since=0.8, until=0.85), replace(cut, worker="w1")):
        assert not tell(FIRST, again, deeds=(deed,), doubles=True).is_good


def test_a_run_beside_another_whose_lease_is_valid_is_told() -> None:
    assert "ran while an earlier delivery held a valid lease" in tell(replace(FIRST, end=9.0), AGAIN).broken


def test_a_retry_is_no_duplicate() -> None:
    assert tell(FIRST, replace(AGAIN, retries=1)).is_good


def test_a_dead_letter_needs_its_deaths() -> None:
    died = tuple(
        replace(FIRST, begin=float(n), fence=n, crashes=n, end=None, death=n + 0.1) for n in range(3)
    )
    assert tell(*died, state=None, kind="poison", letter=Letter("crashed", ("signal 9",) * 3)).is_good
    assert list(tell(*died, state=None, letter=Letter("crashed", ("signal 9",))).broken) == [
        "a dead letter without its deaths"
    ]


def test_poison_that_succeeds_is_told() -> None:
    assert list(tell(FIRST, kind="poison").broken) == ["poison that did not end as a dead letter"]


def test_lines_become_runs_and_a_line_that_was_cut_off_is_none() -> None:
    lines = [
        "begin a w1 10 1.0 1 0 0\n",
        "end a w1 10 1.5 1 0 0\n",
        "begin b w1 10 2.0 2 0 0\n",
        "end b w1 10 2.",
    ]
    assert read_runs(lines) == [FIRST, Run("b", "w1", 10, 2.0, 2, 0, 0)]
