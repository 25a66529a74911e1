"""Rates of the PostgreSQL broker, what a queue weighs, and whether it stays so, for docs/design/0007.

python benchmarks/postgres_broker.py URL [--messages N]     (a server of which a schema may be made and dropped)
"""

from __future__ import annotations

import argparse
import secrets
import threading
import time

import psycopg

from broker_rates import drain, latency, outgoing, rate, rates
from celeriac.brokers import connect
from celeriac.brokers.contract import Ack, Settlement


def endure(url: str, schema: str, messages: int) -> None:
    """Send and settle so many, at one time some thousand, and tell the rate and the size of the tables on the way."""
    sending, taking = connect(url), connect(url)
    room = threading.Semaphore(40)

    def send() -> None:
        for _ in range(messages // 500):
            room.acquire()
            sending.send([outgoing() for _ in range(500)], 60.0)

    threading.Thread(target=send, daemon=True).start()
    consumer = taking.consumer(["q"], "endures", lease=30.0, max_deliveries=3)
    done, began, told = 0, time.perf_counter(), 0
    while done < messages // 500 * 500:
        batch = consumer.take(500, 5.0)
        consumer.settle([Settlement(one, Ack()) for one in batch])
        before, done = done, done + len(batch)
        for _ in range(done // 500 - before // 500):
            room.release()
        if done - told >= messages / 10:
            seconds = time.perf_counter() - began
            print(f"{done:>10,} settled: {(done - told) / seconds:8,.0f} /s, {size(url, schema)}", flush=True)
            told, began = done, time.perf_counter()
    consumer.close()


def size(url: str, schema: str) -> str:
    with psycopg.connect(url.partition("?")[0]) as connection:
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = to_regnamespace(%s) AND relname IN ('ready', 'held', 'tallies', 'sends')"
            "ORDER BY relname",
            (schema,),
        ).fetchall()
    return ", ".join(f"{name} {weight / 1e6:.1f} MB" for name, weight in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--messages", type=int, default=0, help="send and settle so many, too")
    args = parser.parse_args()
    schema = f"celeriac_bench_{secrets.token_hex(4)}"
    url = f"{args.url}?schema={schema}"
    try:
        consumer = rates(connect(url), piles=5)
        rate("take and settle, behind half a million", 50_000, lambda: drain(consumer, 50_000, 100))
        consumer.close()
        print(size(url, schema))
        latency(connect(url), url, "latency")
        if args.messages:
            connect(url).purge("q")
            endure(url, schema, args.messages)
    finally:
        with psycopg.connect(args.url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


if __name__ == "__main__":
    main()
