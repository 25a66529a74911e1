"""Adds up tables."""

from __future__ import annotations

import pandas

from heavy.app import app, tally


@app.task
def run(number: int) -> None:
    pandas.DataFrame({"number": [number]}).sum()
    tally.add()
