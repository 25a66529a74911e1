"""The verdict can be bad: for each promise figures by which it is broken, beside some by which it is kept."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.soak import watch
from tests.soak.verdict import MIB, Process, Stretch, broken, slope, table, trend
from tests.soak.watch import Look

CYCLES = 9


def process(role: str = "child", *, growth: float = 0.0, wave: float = 0.0, connections: int = 1,
            files: int = 10, more_files: int = 0) -> Process:  # fmt: skip
    """Memory grows by `growth` bytes from one quiet stretch to the next, a minute and 10,000 tasks later."""
    stretches = [
        Stretch(
            at=number * 60.0,
            tasks=number * 10_000,
            look=Look(int(8 * MIB + growth * number + wave * (number % 2)), 0, 0, files + more_files * number, 2, 0.0),
            idle=0.001,
        )
        for number in range(CYCLES)
    ]  # fmt: skip
    return Process("prefork", role, 7, stretches, connections)


def test_what_does_not_change_is_good() -> None:
    assert (
        broken([process(), process("supervisor", connections=2), process("template", connections=0)], None)
        == []
    )


def test_a_leak_is_told_with_its_slopes() -> None:
    leaking = process(growth=0.5 * MIB)
    went = trend(leaking)
    assert went.per_hour == pytest.approx(30 * MIB)
    assert went.per_tasks == pytest.approx(5 * MIB)
    assert broken([leaking], None) == [
        "P12: prefork child 7 grew by 2.5 MiB: 30.0 MiB an hour, 5.00 MiB for 100,000 tasks"
    ]


def test_what_goes_up_and_down_is_good() -> None:
    assert broken([process(wave=3 * MIB)], None) == []


def test_growth_that_comes_to_an_end_is_good() -> None:
    filling = process()
    filling.stretches = [
        replace(one, look=replace(one.look, own=int(8 * MIB + 4 * MIB * (1 - 0.5**number))))
        for number, one in enumerate(filling.stretches)
    ]
    assert broken([filling], None) == []


def test_growth_while_it_warms_up_is_good() -> None:
    warming = process()
    first = warming.stretches[0]
    warming.stretches[0] = Stretch(first.at, first.tasks, Look(MIB, 0, 0, 3, 1, 0.0), first.idle)
    assert broken([warming], None) == []


@pytest.mark.parametrize(("role", "connections"), [("child", 2), ("supervisor", 3), ("template", 1)])
def test_too_many_connections_are_told(role: str, connections: int) -> None:
    assert broken([process(role, connections=connections)], None) == [
        f"P12: prefork {role} 7 had {connections} connections"
    ]


def test_files_that_stay_open_are_told() -> None:
    (told,) = broken([process(more_files=1)], None)
    assert "more files" in told


def test_a_worker_that_is_not_quiet_is_told() -> None:
    two = [process(), process()]
    assert broken(two, {"prefork": 1.9}) == []
    assert broken(two, {"prefork": 2.1}) == [
        "P13: prefork sent 2.10 commands a second when idle, with 2 children"
    ]


def test_nothing_is_said_of_too_few_stretches() -> None:
    short = process()
    del short.stretches[4:]
    assert ["too few" in told for told in broken([short], None)] == [True]


def test_slopes_are_nought_where_there_is_nothing_to_see() -> None:
    assert slope([1.0, 2.0], [1.0, 2.0]) == (0.0, 0.0)
    assert slope([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == (0.0, 0.0)
    assert slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == (2.0, 0.0)


def test_the_table_has_a_line_for_each_process() -> None:
    assert len(table([process(), process("supervisor")], {7: 0.5}).splitlines()) == 3


def test_this_process_can_be_looked_at() -> None:
    seen = watch.look(os.getpid())
    assert seen is not None
    assert 1 * MIB < seen.own <= seen.rss and seen.files >= 3 and seen.threads >= 1 and seen.cpu > 0
