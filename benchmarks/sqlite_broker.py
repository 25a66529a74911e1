"""Rates, latency and idle cost of the SQLite broker, for docs/design/0003.

python benchmarks/sqlite_broker.py DIRECTORY     (a directory on the disk that is to be measured)
"""

from __future__ import annotations

import argparse
import tempfile
import time

from broker_rates import latency, rates
from celeriac.brokers import connect
from celeriac.brokers.contract import Broker


def idle_cost(broker: Broker) -> None:
    consumer = broker.consumer(["idle"], "idle", lease=30.0, max_deliveries=3)
    consumer.take(1, 0)
    used, began = time.process_time(), time.perf_counter()
    consumer.take(1, 10.0)
    share = (time.process_time() - used) / (time.perf_counter() - began)
    print(f"waiting: {share:.2%} of a core")
    consumer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", metavar="DIRECTORY")
    directory = parser.parse_args().directory
    for mode in ("full", "normal"):
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            rates(connect(f"sqlite:///{folder}/queue.sqlite?synchronous={mode}"), f"{mode:8}").close()
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        url = f"sqlite:///{folder}/queue.sqlite"
        broker = connect(url)
        idle_cost(broker)
        latency(broker, url, "latency")


if __name__ == "__main__":
    main()
