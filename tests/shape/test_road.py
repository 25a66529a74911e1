"""One `delay()` takes a short road."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from celeriac import Celeriac
from tests.shape.source import PACKAGE

MOST_CALLS = 20
MOST_FILES = 7
DEEPEST = 8


def test_one_delay_makes_at_most_20_calls_of_ours_in_7_files() -> None:
    app = Celeriac("shape", broker="memory://shape-road")

    @app.task(name="scrape")
    def scrape(number: int, url: str, depth: int) -> None: ...

    def send() -> None:
        scrape.delay(1000000, url="https://example.com/items/1/reviews", depth=2)

    send()
    calls: list[str] = []
    depths: list[int] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            calls.append(frame.f_code.co_filename)
            above, depth = frame, 0
            while above is not None:
                depth += above.f_code.co_filename.startswith(str(PACKAGE))
                above = above.f_back
            depths.append(depth)

    sys.setprofile(note)
    try:
        send()
    finally:
        sys.setprofile(None)
    app.close()
    assert len(calls) <= MOST_CALLS, calls
    assert len(set(calls)) <= MOST_FILES, sorted(set(calls))
    assert max(depths) <= DEEPEST
