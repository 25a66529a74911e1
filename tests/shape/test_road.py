"""One `delay()` takes a short road."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.shape.source import PACKAGE

MOST_CALLS = 20
MOST_FILES = 7
DEEPEST = 8
#: Prints the files of all calls, and how deep the deepest was. In a process of its own: in one where an exception was
#: ever raised in a thread from outside, CPython 3.11 may not come back from a call that is profiled.
LOOK = """
import json, sys
from celeriac import Celeriac

app = Celeriac("shape", broker="memory://shape-road")

@app.task(name="scrape")
def scrape(number, url, depth): ...

def send():
    scrape.delay(1000000, url="https://example.com/items/1/reviews", depth=2)

send()
calls, depths = [], []

def note(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.startswith(sys.argv[1]):
        calls.append(frame.f_code.co_filename)
        above, depth = frame, 0
        while above is not None:
            depth += above.f_code.co_filename.startswith(sys.argv[1])
            above = above.f_back
        depths.append(depth)

sys.setprofile(note)
try:
    send()
finally:
    sys.setprofile(None)
app.close()
print(json.dumps([calls, max(depths)]))
"""


def test_one_delay_makes_at_most_20_calls_of_ours_in_7_files() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LOOK, str(PACKAGE)], capture_output=True, text=True, check=True
    )
    calls, deepest = json.loads(run.stdout)
    assert 0 < len(calls) <= MOST_CALLS, calls
    assert len(set(calls)) <= MOST_FILES, sorted(set(calls))
    assert deepest <= DEEPEST
