"""Fetches pages and takes them apart."""

from __future__ import annotations

import lxml.html
import requests

from heavy.app import app, tally


@app.task
def run(number: int) -> None:
    session = requests.Session()
    session.headers["X-Number"] = str(number)
    lxml.html.fromstring(f"<p>{number}</p>").text_content()
    tally.add()
