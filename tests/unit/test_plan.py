"""What the supervisor decides, as a function of values."""

from __future__ import annotations

import signal

import msgspec

from celeriac.board import RunSnapshot
from celeriac.supervisor import plan
from celeriac.supervisor.plan import (
    Begin,
    Child,
    Death,
    Drain,
    Kill,
    Limits,
    Spawn,
    State,
    Streak,
    Warn,
    Why,
    Wishes,
    decide,
)
from celeriac.wire import EXIT_FAILURE, EXIT_USAGE

LIMITS = Limits(start_timeout=60.0)


def a_run(
    key: bytes = b"k" * 16, sequence: int = 1, soft_at: float = 0.0, hard_at: float = 0.0
) -> RunSnapshot:
    return RunSnapshot(0, sequence, key, "proj.add", 5.0, soft_at, hard_at)


def a_child(number: int = 1, **fields) -> Child:
    return Child(number=number, **fields)


def leaving(number: int = 1, **fields) -> Child:
    return a_child(number, state=State.LEAVING, runs=(a_run(),), **fields)


def standby(number: int, state: State = State.READY) -> Child:
    return a_child(number, state=state, begun=False)


def test_what_is_missing_is_started():
    assert decide([], Wishes(processes=2), LIMITS, 10.0) == [Spawn(), Spawn()]


def test_nothing_is_started_without_a_template():
    assert decide([], Wishes(processes=2, can_fork=False), LIMITS, 10.0) == []


def test_nothing_is_started_before_the_back_off_is_over():
    wishes = Wishes(processes=1, spawn_at=11.0)
    assert decide([], wishes, LIMITS, 10.9) == []
    assert decide([], wishes, LIMITS, 11.0) == [Spawn()]


def test_a_full_worker_is_left_alone():
    assert decide([a_child(1), a_child(2, state=State.BOOTING)], Wishes(processes=2), LIMITS, 10.0) == []


def test_a_retiring_child_gets_a_replacement_that_stands_by():
    assert decide([leaving()], Wishes(), LIMITS, 10.0) == [Spawn(standby=True)]
    assert decide([leaving(), standby(2)], Wishes(), LIMITS, 10.0) == []


def test_a_standby_begins_when_the_child_before_it_is_done():
    done = a_child(1, state=State.STOPPED, quiet_at=10.0)
    assert decide([done, standby(2)], Wishes(), LIMITS, 10.0) == [Begin(2)]


def test_a_standby_begins_when_the_child_before_it_is_dead():
    assert decide([standby(2)], Wishes(), LIMITS, 10.0) == [Begin(2)]


def test_the_standby_that_is_ready_begins_first():
    children = [standby(1, State.BOOTING), standby(2), leaving(3)]
    assert Begin(2) in decide(children, Wishes(processes=2), LIMITS, 10.0)


def test_with_many_slots_a_standby_begins_as_the_other_stops_taking():
    assert decide([leaving(slots=100), standby(2)], Wishes(), LIMITS, 10.0) == [Begin(2)]


def test_a_child_above_its_memory_is_drained_once_its_replacement_is_ready():
    limits = Limits(max_memory=1000)
    heavy = a_child(1, memory=1001)
    assert decide([heavy], Wishes(), limits, 10.0) == [Spawn(standby=True)]
    assert decide([heavy, standby(2, State.BOOTING)], Wishes(), limits, 10.0) == []
    (drain,) = decide([heavy, standby(2)], Wishes(), limits, 10.0)
    assert isinstance(drain, Drain) and drain.number == 1 and "1001 KiB" in drain.reason


def test_two_due_children_do_not_leave_for_one_replacement():
    old = [a_child(1, due_at=9.0), a_child(2, due_at=9.0)]
    actions = decide([*old, standby(3)], Wishes(processes=2), LIMITS, 10.0)
    assert [type(action) for action in actions] == [Drain, Spawn]


def test_an_outdated_child_is_replaced():
    actions = decide([a_child(1, outdated=True), standby(2)], Wishes(), LIMITS, 10.0)
    assert [type(action) for action in actions] == [Drain]


def test_a_standby_that_nobody_needs_is_sent_home():
    assert decide([a_child(1), standby(2)], Wishes(), LIMITS, 10.0) == [Drain(2, "no longer needed")]


def test_fewer_wanted_children_stop_in_order():
    actions = decide([a_child(1), a_child(2), a_child(3)], Wishes(processes=2), LIMITS, 10.0)
    assert actions == [Drain(3, "fewer are wanted")]


def test_of_those_that_are_not_wanted_the_idle_and_the_young_go_and_no_run_is_interrupted():
    children = [
        a_child(1, started_at=1.0), a_child(2, started_at=2.0, runs=(a_run(),)), a_child(3, started_at=3.0),
    ]  # fmt: skip
    actions = decide(children, Wishes(processes=2), LIMITS, 10.0)
    assert actions == [Drain(3, "fewer are wanted")]
    assert decide(children, Wishes(processes=1), LIMITS, 10.0) == [
        Drain(1, "fewer are wanted"), Drain(3, "fewer are wanted"),
    ]  # fmt: skip


def test_who_still_finishes_its_run_costs_no_other_its_place():
    assert decide([leaving(1), leaving(2), a_child(3)], Wishes(processes=1), LIMITS, 10.0) == []


def test_who_goes_because_fewer_are_wanted_is_not_replaced():
    children = [leaving(1), leaving(2), leaving(3), a_child(4)]
    assert decide(children, Wishes(processes=2), LIMITS, 10.0) == [Spawn(standby=True)]


def test_a_run_over_its_hard_limit_ends_its_child():
    run = a_run(hard_at=9.0)
    child = a_child(1, runs=(run, a_run(b"n" * 16, 2)))
    assert Kill(1, Why.TIME_LIMIT, (run,)) in decide([child], Wishes(), LIMITS, 10.0)


def test_a_killed_child_is_not_killed_again_and_is_replaced():
    child = a_child(1, runs=(a_run(hard_at=9.0),), killed=Why.TIME_LIMIT)
    assert decide([child], Wishes(), LIMITS, 10.0) == [Spawn()]


def test_a_soft_limit_is_told_once():
    run = a_run(soft_at=9.0, hard_at=20.0)
    assert decide([a_child(1, runs=(run,))], Wishes(), LIMITS, 10.0) == [Warn(1, run)]
    assert decide([a_child(1, runs=(run,), warned=frozenset({1}))], Wishes(), LIMITS, 10.0) == []


def test_a_child_far_above_its_memory_is_killed():
    child = a_child(1, memory=5000)
    assert Kill(1, Why.MEMORY) in decide([child], Wishes(), Limits(kill_above_memory=4000), 10.0)


def test_a_child_that_does_not_get_ready_is_killed():
    child = a_child(1, state=State.BOOTING, started_at=0.0)
    assert decide([child], Wishes(), LIMITS, 59.9) == []
    assert Kill(1, Why.HUNG) in decide([child], Wishes(), LIMITS, 60.0)


def test_a_child_that_does_not_end_is_killed_but_not_while_it_runs_something():
    child = a_child(1, state=State.LEAVING, quiet_at=10.0, heard_at=10.0)
    now = 10.0 + plan.EXIT_TIMEOUT
    assert Kill(1, Why.HUNG) in decide([child], Wishes(processes=0), LIMITS, now)
    assert not any(isinstance(a, Kill) for a in decide([leaving()], Wishes(), LIMITS, 1e6))


def test_a_stop_drains_everybody_once():
    wishes = Wishes(processes=2, stop_at=35.0)
    children = [a_child(1), standby(2), a_child(3, state=State.BOOTING, started_at=9.0), leaving(4)]
    assert decide(children, wishes, LIMITS, 10.0) == [Drain(n, "shutdown") for n in (1, 2, 3)]


def test_a_stop_replaces_nobody():
    assert decide([leaving(1)], Wishes(processes=8, stop_at=35.0), LIMITS, 10.0) == []


def test_at_the_end_of_a_stop_what_is_left_is_killed():
    assert decide([leaving(1)], Wishes(stop_at=10.0), LIMITS, 10.0) == [Kill(1, Why.SHUTDOWN)]


def test_the_next_look_is_at_the_next_limit():
    children = [a_child(1, runs=(a_run(soft_at=10.1, hard_at=10.2),))]
    assert plan.next_look(children, Wishes(), 10.0, 0.25) == 10.1 - 10.0
    warned = [a_child(1, runs=children[0].runs, warned=frozenset({1}))]
    assert plan.next_look(warned, Wishes(), 10.0, 0.25) == 10.2 - 10.0
    assert plan.next_look([], Wishes(), 10.0, 0.25) == 0.25
    assert plan.next_look([], Wishes(stop_at=10.01), 10.0, 0.25) == 10.01 - 10.0


def test_a_crash_counts_against_every_run_that_had_started():
    death = Death(status=signal.SIGSEGV, runs=(a_run(b"a" * 16), a_run(b"b" * 16)))
    assert plan.losses(death) == plan.Losses((b"a" * 16, b"b" * 16))
    assert plan.cause(death) == "signal 11 (SIGSEGV)" and not plan.is_expected(death)


def test_an_exit_code_is_named():
    assert plan.cause(Death(status=3 << 8)) == "exit code 3"


def test_a_task_that_exits_with_0_is_a_crash():
    death = Death(status=0, runs=(a_run(),))
    assert plan.losses(death).crashed and not plan.is_expected(death)


def test_a_hard_limit_is_the_verdict_of_one_run_and_nobody_elses_harm():
    overrun = a_run(hard_at=7.5)
    death = Death(status=9, killed=Why.TIME_LIMIT, runs=(overrun, a_run(b"n" * 16, 2)), overrun=(overrun,))
    assert plan.losses(death) == plan.Losses((), {b"k" * 16: "time_limit:2.5"})


def test_what_a_stop_ends_is_counted_against_nobody():
    death = Death(status=9, killed=Why.SHUTDOWN, runs=(a_run(),))
    assert plan.losses(death) == plan.Losses() and plan.is_expected(death)


def test_the_first_replacement_comes_at_once_and_later_ones_wait_longer():
    streak, delays = Streak(any_ready=True), []
    for _ in range(9):
        streak = streak.after(Death(status=1 << 8, age=0.1))
        delays.append(streak.delay())
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_death_with_a_task_to_blame_or_after_a_while_is_no_failure_to_start():
    failing = Streak(failures=4, any_ready=True)
    assert failing.after(Death(status=9, age=0.1, runs=(a_run(),))).failures == 0
    assert failing.after(Death(status=9, age=60.0)).failures == 0


def test_a_worker_whose_children_never_get_ready_gives_up():
    death = Death(status=1 << 8, was_ready=False)
    streak, codes = Streak(), []
    for _ in range(plan.FIRST_TRIES):
        streak = streak.after(death)
        codes.append(streak.give_up(death))
    assert codes == [None, None, None, None, EXIT_FAILURE]
    assert Streak().after(death).give_up(Death(status=EXIT_USAGE << 8, was_ready=False)) == EXIT_USAGE
    assert Streak(failures=9, any_ready=True).give_up(death) is None


def test_a_child_that_runs_nothing_and_does_not_come_round_is_ended():
    silent = a_child(1, heard_at=10.0)
    assert decide([silent], Wishes(), LIMITS, 39.0) == []
    assert decide([silent], Wishes(), LIMITS, 40.0)[0] == Kill(1, Why.HUNG)
    assert decide([a_child(1, heard_at=10.0, runs=(a_run(),))], Wishes(), LIMITS, 1000.0) == []


def test_a_child_that_is_to_go_may_settle_for_as_long_as_it_comes_round():
    settling = a_child(1, state=State.LEAVING, quiet_at=10.0, heard_at=39.0)
    assert not any(isinstance(action, Kill) for action in decide([settling], Wishes(), LIMITS, 40.0))
    assert decide([settling], Wishes(), LIMITS, 44.0)[0] == Kill(1, Why.HUNG)
    endless = a_child(1, state=State.LEAVING, quiet_at=10.0, heard_at=70.0)
    assert decide([endless], Wishes(), LIMITS, 70.0)[0] == Kill(1, Why.HUNG)


# ---- revocations


def test_a_run_that_is_condemned_is_ended_at_its_time():
    child = a_child(runs=(a_run(b"a" * 16, 1), a_run(b"b" * 16, 2)), slots=2)
    limits = Limits(condemned={b"a" * 16: 20.0, b"c" * 16: 10.0})
    late = msgspec.structs.replace(child.runs[0], net=0.4)
    assert decide([a_child(runs=(late,))], Wishes(), limits, 20.3) == []
    assert decide([child], Wishes(), limits, 19.9) == []
    assert Kill(1, Why.REVOKED, (child.runs[0],)) in decide([child], Wishes(), limits, 20.0)


def test_a_run_ended_for_a_revocation_says_so_and_is_nobodys_harm():
    revoked, neighbour = a_run(b"a" * 16, 1), a_run(b"b" * 16, 2)
    death = Death(status=9, killed=Why.REVOKED, runs=(revoked, neighbour), overrun=(revoked,))
    losses = plan.losses(death)
    assert losses.crashed == () and losses.verdicts == {b"a" * 16: "revoked:terminated"}
    assert "revoked" in plan.cause(death)


def test_an_end_that_was_said_to_be_earlier_stays_so():
    condemned = plan.condemn({b"a": 15.0}, [b"a", b"b"], 20.0, 10.0)
    assert condemned == {b"a": 15.0, b"b": 20.0}
    assert plan.condemn(condemned, [b"a"], 11.0, 11.0)[b"a"] == 11.0


def test_ends_are_forgotten_after_their_time_and_bounded():
    assert plan.condemn({b"a": 10.0, b"b": 12.0}, [b"c"], 20.0, 13.0) == {b"b": 12.0, b"c": 20.0}
    keys = [str(n).encode() for n in range(plan.MOST_CONDEMNED + 10)]
    assert list(plan.condemn({}, keys, 20.0, 10.0)) == keys[10:]


# ---- several brokers


def test_a_child_at_another_broker_is_replaced_before_it_goes():
    old = a_child(1, astray=True)
    assert decide([old], Wishes(processes=1), LIMITS, 10.0) == [Spawn(standby=True)]
    assert decide([old, standby(2, State.BOOTING)], Wishes(processes=1), LIMITS, 10.0) == []
    assert decide([old, standby(2)], Wishes(processes=1), LIMITS, 10.0) == [
        Drain(1, "the worker takes from another broker")
    ]


def test_a_child_that_runs_at_a_broker_that_is_away_is_waited_for():
    old = leaving(1, astray=True, stranded=True)
    assert decide([old, standby(2)], Wishes(processes=1), LIMITS, 10.0) == []


def test_a_child_that_waits_for_a_broker_that_is_away_is_not():
    for old in (
        a_child(1, state=State.LEAVING, astray=True, stranded=True),
        leaving(1, astray=True, stranded=True, away_since=9.0),
        leaving(1, astray=True, stranded=True, store_away_since=9.0),
    ):
        assert decide([old, standby(2)], Wishes(processes=1), LIMITS, 10.0) == [Begin(2)]


def test_a_child_at_a_broker_that_was_left_is_no_witness():
    left, here = a_child(1, astray=True, away_since=3.0), a_child(2, away_since=5.0)
    since = [plan.held_up_since(seen, lambda child: child.away_since) for seen in ([left], [left, here])]
    assert since == [None, 5.0]
