"""Sends for the engine benchmark, in a process of its own: `one COUNT`, `bulk COUNT`. Prints messages per second."""

from __future__ import annotations

import sys
import time

from engine_tasks import SYSTEM, app, call, scrape


def main() -> None:
    how, count = sys.argv[1], int(sys.argv[2])
    calls = [call(place) for place in range(count)]
    (args, kwargs) = call(0)
    scrape.delay(*args, **kwargs)
    if how == "one":
        started = time.perf_counter()
        for args, kwargs in calls:
            scrape.delay(*args, **kwargs)
    else:
        group = __import__(SYSTEM).group
        members = [scrape.s(*args, **kwargs) for args, kwargs in calls]
        started = time.perf_counter()
        group(members, app=app).apply_async()
    print(count / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
