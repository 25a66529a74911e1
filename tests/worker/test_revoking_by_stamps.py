"""Tasks that are revoked by a stamp: those that are there, and those that come later."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
from harness import WAIT, Site, wait_until

from celeriac import bans, states
from celeriac.async_result import AsyncResult
from celeriac.exceptions import ImproperlyConfigured, TaskRevokedError
from celeriac.workflow.chain import chain

#: What is promised within a second holds on a machine at rest.
LENIENT = 4.0


def stamped(site: Site, name: str, *args: Any, batch: Any, **options: Any) -> AsyncResult:
    """Send a task with a stamp."""
    return site.call(name, *args, stamped_headers=["batch"], batch=batch, **options)


def is_refused(result: AsyncResult) -> bool:
    """Whoever waits is told that it is revoked."""
    with pytest.raises(TaskRevokedError):
        result.get(timeout=WAIT)
    return result.state == states.REVOKED


def ended(result: AsyncResult) -> str:
    """How it ended."""
    result.get(timeout=WAIT, propagate=False)
    return result.state


def test_what_waits_ends_at_once_with_all_workers_down_and_the_rest_runs(site: Site):
    ready = [stamped(site, "add", n, batch="may") for n in range(3)]
    several = stamped(site, "add", 1, batch=["april", "may"], queue="letters")
    late = stamped(site, "add", 1, batch="may", countdown=3600)
    others = [stamped(site, "add", 10, batch="june"), site.send("add", "may-not-be-a-stamp: batch ", "may")]
    began = time.monotonic()
    site.app.control.revoke_by_stamped_headers({"batch": "may"})
    assert all(is_refused(result) for result in (*ready, several, late))
    assert time.monotonic() - began < 1.0 + LENIENT
    site.worker("-c", "1", "-Q", "celery,letters")
    assert [others[0].get(timeout=WAIT), others[1].get(timeout=WAIT)] == [11, "may-not-be-a-stamp: batch may"]
    site.wait_empty()
    assert not any(site.notes(result) for result in (*ready, several, late))


def test_it_holds_for_what_is_sent_right_behind_it(site: Site):
    site.worker("-c", "2")
    assert site.send("add", 1, 2).get(timeout=WAIT) == 3
    # As a worker sees it whose notice is still on its way.
    site.app.broker.ban(bans.encode(bans.of_headers({"batch": "may"})), 60.0)
    assert all(is_refused(stamped(site, "add", n, batch="may")) for n in range(5))
    assert stamped(site, "add", 2, batch="june").get(timeout=WAIT) == 3


def test_it_holds_for_what_comes_later_and_over_restarts(site: Site):
    worker = site.worker("-c", "2")
    site.app.control.revoke_by_stamped_headers({"batch": ["may", 6]})
    assert all(is_refused(stamped(site, "add", 1, batch=batch)) for batch in ("may", 6))
    assert stamped(site, "add", 2, batch="7").get(timeout=WAIT) == 3
    worker.stop()
    again = stamped(site, "add", 1, batch="may")
    site.worker("-c", "1")
    assert is_refused(again) and site.notes(again) == []


def test_what_runs_goes_on_and_the_later_steps_of_its_chain_do_not_run(site: Site):
    steps = chain(site.task("holds").s("gate"), site.task("add").s(2))
    steps.stamp(batch="may")
    site.worker("-c", "1")
    last = steps.apply_async()
    assert last.parent is not None
    site.wait_note(last.parent, "start")
    last.parent.revoke_by_stamped_headers({"batch": "may"}, wait=True)
    site.open("gate")
    wait_until(lambda: last.state == states.REVOKED, site.told)
    assert site.notes(last.parent, "end") and not site.notes(last)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_is_held_does_not_start_and_what_runs_is_terminated(site: Site, pool: str):
    site.worker("-P", pool, "-c", "1", worker_prefetch_multiplier=10, worker_revoke_grace=0.5)
    running = stamped(site, "catches_all", 60, batch="may")
    held = [stamped(site, "add", n, batch="may") for n in range(3)]
    site.wait_note(running, "start")
    site.app.control.revoke_by_stamped_headers({"batch": "may"}, terminate=True)
    assert all(is_refused(result) for result in (running, *held))
    assert not any(site.notes(result) for result in held)
    assert site.send("add", 1).get(timeout=WAIT) == 2


def test_no_stamp_is_an_error_that_says_so(site: Site):
    with pytest.raises(ImproperlyConfigured, match="which stamps"):
        site.app.control.revoke_by_stamped_headers({})


def test_workers_reply_in_celerys_words(sqlite_site: Site):
    sqlite_site.worker("-c", "1", "-n", "w1@test")
    revoke = partial(
        sqlite_site.app.control.revoke_by_stamped_headers,
        {"batch": ["may"]},
        reply=True,
        timeout=WAIT,
        limit=1,
    )
    told = "headers {'batch': ['may']} flagged as revoked, but not terminated"
    assert revoke() == [{"w1@test": {"ok": told}}]
    assert revoke(terminate=True) == [{"w1@test": {"ok": "headers {'batch': ['may']} revoked"}}]
