"""Workflows as users write them, run by a real worker: groups, chords, chains of both, and how they fail."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from harness import WAIT, Site, wait_until

from celeriac import chain, chord, group, states
from celeriac.exceptions import ChordError
from celeriac.message import key_of


def sig(site: Site, name: str, *args: Any, immutable: bool = False) -> Any:
    """A signature of one of the workload's tasks."""
    return site.task(name).si(*args) if immutable else site.task(name).s(*args)


def test_a_chords_body_gets_the_results_in_order(shared: Site):
    result = chord([sig(shared, "add", i, i) for i in range(20)], sig(shared, "give")).apply_async()
    assert result.get(timeout=WAIT) == [2 * i for i in range(20)]


def test_a_group_with_a_step_behind_it_is_a_chord(shared: Site):
    whole = (
        group(sig(shared, "add", 1, 1), sig(shared, "add", 2, 2)) | sig(shared, "give") | sig(shared, "give")
    )
    assert whole.apply_async().get(timeout=WAIT) == [2, 4]


def test_a_header_may_be_empty_or_of_one(shared: Site):
    assert chord([], sig(shared, "give")).apply_async().get(timeout=WAIT) == []
    assert chord([sig(shared, "add", 1, 2)], sig(shared, "give")).apply_async().get(timeout=WAIT) == [3]


def test_a_header_may_be_a_generator(shared: Site):
    result = chord((sig(shared, "add", i, 0) for i in range(50)), sig(shared, "give")).apply_async()
    assert result.get(timeout=WAIT) == list(range(50))


def test_chords_may_be_members_of_chords(shared: Site):
    inner = [chord([sig(shared, "add", i, j) for j in range(3)], sig(shared, "give")) for i in range(3)]
    assert chord(inner, sig(shared, "give")).apply_async().get(timeout=WAIT) == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
    ]


def test_members_may_be_chains_and_bodies_groups(shared: Site):
    steps = chain(sig(shared, "add", 1, 1), sig(shared, "add", 10))
    whole = group(steps, sig(shared, "add", 5, 5)) | group(sig(shared, "give"), sig(shared, "give"))
    assert whole.apply_async().get(timeout=WAIT) == [[12, 10], [12, 10]]


def test_a_chain_may_have_a_group_in_its_middle(shared: Site):
    whole = chain(
        sig(shared, "add", 1, 1), group(sig(shared, "add", 1), sig(shared, "add", 2)), sig(shared, "give"),
        group(sig(shared, "give"), sig(shared, "give")), sig(shared, "give"),
    )  # fmt: skip
    assert whole.apply_async().get(timeout=WAIT) == [[3, 4], [3, 4]]


def test_a_long_chain_is_carried_in_parts(shared: Site):
    whole = chain(sig(shared, "add", 0, 0), *(sig(shared, "add", 1) for _ in range(60)))
    assert whole.apply_async().get(timeout=WAIT) == 60


def test_a_failed_member_fails_the_body_once_and_calls_its_error_callback(shared: Site):
    body = sig(shared, "give")
    body.link_error(sig(shared, "mark_error"))
    result = chord(
        [sig(shared, "add", 1, 1), sig(shared, "fails", "broken"), sig(shared, "add", 2, 2)], body
    ).apply_async()
    with pytest.raises(Exception, match="broken"):
        result.get(timeout=WAIT)
    assert result.state == states.FAILURE
    assert isinstance(result.result, ChordError)
    wait_until(
        lambda: len(shared.notes(None, f"error of {result.id}")) == 1, lambda: "the callback is called"
    )


@pytest.mark.parametrize("kind", ["chord", "group", "chain"])
def test_a_body_that_is_a_workflow_has_its_error_callback_called_too(shared: Site, kind: str):
    last, mark = sig(shared, "give"), f"a body that is a {kind}, {secrets.token_hex(4)}"
    if kind == "chord":
        body: Any = chord([sig(shared, "give")], last)
    else:
        body = group(last, sig(shared, "give"))
    if kind == "chain":
        body = chain(sig(shared, "give"), body)
        body.link_error(sig(shared, "mark_error", mark, immutable=True))
    else:
        last.link_error(sig(shared, "mark_error", mark, immutable=True))
    result = chord([sig(shared, "fails", "broken"), sig(shared, "add", 2, 2)], body).apply_async()
    with pytest.raises(Exception, match="broken"):
        result.get(timeout=WAIT)
    wait_until(lambda: shared.notes(None, f"error of {mark}"), lambda: "the callback is called")
    assert len(shared.notes(None, f"error of {mark}")) == 1


@pytest.mark.parametrize("kind", ["chord", "group", "chain"])
def test_who_waits_behind_a_chord_gets_the_members_own_error(shared: Site, kind: str):
    give = sig(shared, "give")
    bodies: dict[str, Any] = {
        "chord": chord([give, give], give),
        "group": group(give, give),
        "chain": give | give,
    }
    result = (group(sig(shared, "add", 1, 1), sig(shared, "fails", "mine")) | bodies[kind]).apply_async()
    with pytest.raises(ValueError, match=r"^mine$"):
        result.get(timeout=WAIT)


def test_error_callbacks_of_members_are_those_of_the_chord_where_it_is_so_set(shared: Site):
    mark = f"a header's member, {secrets.token_hex(4)}"
    shared.app.conf.task_allow_error_cb_on_chord_header = True
    try:
        whole = group(sig(shared, "fails", "a"), sig(shared, "fails", "b"), sig(shared, "add", 1, 1)) | sig(
            shared, "give"
        )
        whole.link_error(sig(shared, "mark_error", mark, immutable=True))
        result = whole.apply_async()
        with pytest.raises(Exception, match=r"a|b"):
            result.get(timeout=WAIT)
        wait_until(
            lambda: len(shared.notes(None, f"error of {mark}")) == 3, lambda: "of two members and the body"
        )
    finally:
        shared.app.conf.task_allow_error_cb_on_chord_header = False


def test_a_failed_step_fails_everything_behind_it(shared: Site):
    whole = chain(sig(shared, "fails", "early"), *(sig(shared, "add", 1) for _ in range(30)))
    result = whole.apply_async()
    with pytest.raises(Exception, match="early"):
        result.get(timeout=WAIT)
    outer = chord([whole.clone(), sig(shared, "add", 1, 1)], sig(shared, "give")).apply_async()
    with pytest.raises(Exception, match="early"):
        outer.get(timeout=WAIT)


def test_members_that_keep_no_results_give_them_to_the_body_all_the_same(shared: Site):
    members = [sig(shared, "add", i, i).set(ignore_result=True) for i in range(5)]
    result = chord(members, sig(shared, "give")).apply_async()
    assert result.get(timeout=WAIT) == [0, 2, 4, 6, 8]
    assert not shared.app.backend.get([member.key for member in result.parent.results])
    assert shared.app.backend.gathered(key_of(result.parent.id)) is None


def test_map_starmap_and_chunks(shared: Site):
    add = shared.task("add")
    assert shared.task("give").map([1, 2]).apply_async().get(timeout=WAIT) == [1, 2]
    assert add.starmap([(1, 2), (3, 4)]).apply_async().get(timeout=WAIT) == [3, 7]
    assert add.chunks(((i, i) for i in range(5)), 2).apply_async().get(timeout=WAIT) == [[0, 2], [4, 6], [8]]


@pytest.mark.timeout(240)
def test_a_thousand_steps_and_ten_thousand_members_finish(shared: Site):
    whole = chain(sig(shared, "add", 0, 0), *(sig(shared, "add", 1) for _ in range(999)))
    many = chord(
        (sig(shared, "add", i, 0).set(ignore_result=True) for i in range(10_000)), sig(shared, "total")
    )
    long, wide = whole.apply_async(), many.apply_async()
    assert long.get(timeout=120) == 999
    assert wide.get(timeout=120) == sum(range(10_000))
