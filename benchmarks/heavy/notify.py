"""Tells others."""

from __future__ import annotations

import requests

from heavy.app import app, tally


@app.task
def run(number: int) -> None:
    requests.Request("POST", f"https://example.com/{number}").prepare()
    tally.add()
