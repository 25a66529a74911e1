"""The rights that docs/redis.md gives to Celeriac's user are enough."""

from __future__ import annotations

import re
from pathlib import Path

from harness import WAIT, Site
from tests.servers import PrivateRedis

from celeriac import urls
from celeriac.exceptions import TaskRevokedError

DOCS = Path(__file__).parents[2] / "docs" / "redis.md"


def test_a_user_with_the_rights_of_the_docs_can_do_everything(private_redis: PrivateRedis, tmp_path: Path):
    [rights] = re.findall(r"^ +(ACL SETUSER .+)$", DOCS.read_text(), re.MULTILINE)
    with private_redis.client() as client:
        client.call(*rights.split())
        client.call("ACL", "SETUSER", "default", "off")
    place = f"127.0.0.1:{urls.parse(private_redis.url).port}"
    site = Site(tmp_path, f"redis://celeriac:password@{place}/0")
    try:
        waiting = site.send("add", 1, 2)
        revoked = site.send("add", 3, 4)
        revoked.revoke()
        worker = site.worker("-c", "1")
        assert waiting.get(timeout=WAIT) == 3
        assert isinstance(revoked.get(timeout=WAIT, propagate=False), TaskRevokedError)
        assert site.app.control.ping(timeout=WAIT, limit=1)
        delayed = site.app.send_task("workload.add", (5, 6), countdown=0.2)
        assert delayed.get(timeout=WAIT) == 11
        assert "Permission" not in worker.log() and "NOPERM" not in worker.log()
        assert worker.stop() == 0
    finally:
        site.close()
