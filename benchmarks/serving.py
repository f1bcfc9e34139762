"""How fast does `mlim serve` answer small requests, and what does computing them together bring?

    python benchmarks/serving.py --work build/demo [--model models:/mlim-matcher@champion] [--set tracking.uri=...]

Two servers of one registered version run side by side, one computes the rows of concurrent requests together
(`--batch-wait-ms 2`, the default), the other each request by itself (`--batch-wait-ms 0`). Clients in this process,
each with a connection of its own, send one pair of the work folder's items after the other to `/score`, pictures as
base64; an answer's time is that between the request and the end of its body. The two servers take turns in every round,
so that a slow machine slows both: read the ratio.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from measure import heading, median_ratio, table

from mlim.recipe import stored_recipe
from mlim.shards.items import ItemStore, open_items
from mlim.workspace import Workspace

PACKAGES = ("mlim", "torch", "mlflow", "fastapi", "uvicorn")
WAITS = {"together": "2", "each by itself": "0"}  # milliseconds
HEADERS = {"Content-Type": "application/json"}
START_SECONDS = 600
MILLISECONDS = 1000


class Round(NamedTuple):
    """What some clients measured: the time of every answer, and pairs per second."""

    milliseconds: list[float]
    rate: float


def bodies_of(work: Path, number: int, rows: int) -> list[bytes]:
    """Requests of `rows` pairs each, of the work folder's test pairs."""
    workspace = Workspace(work)
    store = open_items(stored_recipe(workspace.recipe).loader, workspace)
    pairs = pd.read_parquet(workspace.pairs / "pairs.parquet", columns=["item_a", "item_b", "split"])
    chosen = pairs[pairs["split"] == "test"].sample(number * rows, replace=True, random_state=0)
    sent = [
        {side: item_of(store, item) for side, item in zip("ab", pair, strict=True)}
        for pair in zip(chosen["item_a"], chosen["item_b"], strict=True)
    ]
    return [json.dumps({"pairs": sent[start : start + rows]}).encode() for start in range(0, len(sent), rows)]


def item_of(store: ItemStore, item: str) -> dict[str, str]:
    return {"id": item, "text": store.text(item), "image": base64.b64encode(store.jpeg(item)).decode()}


@contextmanager
def server(options: argparse.Namespace, wait_ms: str) -> Iterator[int]:
    """The port of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlim", "serve", "--quiet", "--port", str(port), "--batch-wait-ms", wait_ms]
    command += [*(["--model", options.model] if options.model else []), *(f"--set={one}" for one in options.set)]
    running = subprocess.Popen(command, env={**os.environ})
    try:
        wait_for(port, running)
        yield port
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait()


def wait_for(port: int, running: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and running.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the server did not start")


def ask(port: int, bodies: Sequence[bytes], until: float) -> list[float]:
    """One client: the milliseconds of every answer until a time."""
    connection, found = http.client.HTTPConnection("127.0.0.1", port), []
    while time.perf_counter() < until:
        started = time.perf_counter()
        connection.request("POST", "/score", bodies[len(found) % len(bodies)], HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        found.append((time.perf_counter() - started) * MILLISECONDS)
        if answer.status != http.client.OK or any("error" in row for row in json.loads(body)["results"]):
            raise SystemExit(f"{answer.status}: {body[:500].decode()}")
    connection.close()
    return found


def measure(port: int, bodies: Sequence[bytes], clients: int, seconds: float, rows: int) -> Round:
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        starts = [number * len(bodies) // clients for number in range(clients)]
        turned = [[*bodies[start:], *bodies[:start]] for start in starts]
        found = list(pool.map(lambda own: ask(port, own, started + seconds), turned))
    times = [one for of_client in found for one in of_client]
    return Round(times, rows * len(times) / (time.perf_counter() - started))


def rows_of(clients: int, found: dict[str, list[Round]]) -> Iterator[list[str]]:
    """A line for each way of computing; the ratio of rates is the median over the rounds."""
    base = [one.rate for one in found["each by itself"]]
    for name, rounds in found.items():
        middle, late = np.percentile([one for each in rounds for one in each.milliseconds], [50, 95])
        rates = [one.rate for one in rounds]
        ratio = f"{median_ratio(rates, base):.2f}"
        yield [str(clients), name, f"{middle:.1f}", f"{late:.1f}", f"{statistics.median(rates):.1f}", ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a work folder with items and pairs")
    parser.add_argument("--model", help="the registered version; default: the recipe's champion")
    parser.add_argument("--set", action="append", default=[], help="of the recipe, as for mlim serve")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--rows", type=int, default=1, help="pairs of one request")
    parser.add_argument("--requests", type=int, default=64, help="distinct ones, sent in turn")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bodies = bodies_of(options.work, options.requests, options.rows)
    counts = [int(number) for number in options.clients.split(",")]
    found = {clients: {name: list[Round]() for name in WAITS} for clients in counts}
    with server(options, WAITS["together"]) as first, server(options, WAITS["each by itself"]) as second:
        ports = dict(zip(WAITS, (first, second), strict=True))
        for port in ports.values():  # first use of everything
            measure(port, bodies, max(counts), options.seconds / 2, options.rows)
        for _ in range(options.rounds):
            for clients in counts:
                for name, port in ports.items():
                    found[clients][name].append(measure(port, bodies, clients, options.seconds, options.rows))
    print(heading(PACKAGES))
    print(f"{options.rows} pairs a request, {options.rounds} rounds of {options.seconds:g} s in turn\n")
    lines = [line for clients, of_clients in found.items() for line in rows_of(clients, of_clients)]
    print(table(("clients", "requests are computed", "p50, ms", "p95, ms", "pairs/s", "ratio of pairs/s"), lines))


if __name__ == "__main__":
    main()
