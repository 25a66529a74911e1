"""Works out numbers."""

from __future__ import annotations

import numpy

from heavy.app import app, tally


@app.task
def run(number: int) -> None:
    numpy.arange(number % 10).sum()
    tally.add()
