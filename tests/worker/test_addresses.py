"""A worker may take messages by another address than that by which they are sent."""

from __future__ import annotations

from harness import WAIT, Site, wait_until

from celeriac import brokers, chord


def test_a_worker_takes_at_one_address_and_sends_to_the_other(sqlite_site: Site):
    theirs = f"sqlite:///{sqlite_site.folder}/theirs.sqlite"
    there = brokers.connect(theirs)
    sqlite_site.worker("-c", "1", broker_write_url=theirs, result_backend=sqlite_site.url)
    [sent] = sqlite_site.send("sends").get(timeout=WAIT)
    wait_until(lambda: there.stats("celery").ready == 1)
    # A second one, which is to take where the first has sent.
    sqlite_site.worker("-c", "1", broker_read_url=theirs, result_backend=sqlite_site.url)
    assert sqlite_site.app.AsyncResult(sent).get(timeout=WAIT)["id"] == sent
    wait_until(lambda: there.stats("celery").running == 0)
    there.close()


def test_two_addresses_of_one_place_are_one_place(sqlite_site: Site):
    (sqlite_site.folder / "other").symlink_to(sqlite_site.folder)
    other = f"sqlite:///{sqlite_site.folder}/other/queue.sqlite"
    sqlite_site.worker("-c", "1", broker_read_url=other)
    add, total = sqlite_site.task("add"), sqlite_site.task("total")
    assert (add.s(1, 2) | add.s(4)).delay().get(timeout=WAIT) == 7
    assert chord([add.s(n, n) for n in range(3)], total.s()).delay().get(timeout=WAIT) == 6
