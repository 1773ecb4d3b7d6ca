"""What the fake RunPod bears: requests on one core with 1,000 pods, and a simulated month of coming and going.

Requests are counted per second of wall time and per second of the server's own CPU time: the latter does not
depend on who else uses the machine. The month checks memory (after a third of it and at its end) and money (the
ledger beside exact fractions of price x time).
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from typing import Any

import psutil

from benchmarks.figures import print_figures
from pod_worker.fake_runpod.billing.ledger import ZERO
from pod_worker.fake_runpod.billing.money import NANO, PICO, amount_usd
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.catalogue import load_catalogue
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec, Status
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.timestamps import DAY, HOUR, SECOND

PODS = 1000
KEY = "benchmark-only"
GPU = "NVIDIA GeForce RTX 4090"
SERVER = f"""
import os, sys
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.server import Options, running
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
account = Account(api_keys=[{KEY!r}], spend_limit_usd_per_hour=1e6, balance_usd=1e9)
with running(Options(account, speed=0, seed=1)) as fake:
    print(fake.url, flush=True)
    sys.stdin.read()
"""
QUERY = json.dumps({"query": "query($id: String) { pod(input: {podId: $id}) { id desiredStatus costPerHr } }"})[
    :-1
]


class Client:
    """One keep-alive connection that counts its requests."""

    def __init__(self, address: str) -> None:
        self._http = http.client.HTTPConnection(address, timeout=30)
        self.count = 0

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        self._http.request(method, path, body, headers)
        answer = self._http.getresponse()
        raw = answer.read()
        self.count += 1
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {raw[:200]!r}")
        return raw

    def create(self, name: str) -> str:
        body = {"name": name, "image": "i", "gpu": {"id": GPU, "count": 1}, "ports": ["22/tcp"]}
        return str(json.loads(self.ask("POST", "/v2/pods", json.dumps(body)))["id"])


def measure_requests(seconds: float, connections: int) -> dict[str, float]:
    command = [sys.executable, "-c", SERVER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip().removeprefix("http://")
    try:
        first = Client(address)
        ids = [first.create(f"pod-{i}") for i in range(PODS)]
        first.ask("POST", "/_fake/clock", '{"step_seconds": 60}')
        return _load(process.pid, address, ids, seconds, connections) | _listing(first)
    finally:
        process.communicate()


def _load(pid: int, address: str, ids: list[str], seconds: float, connections: int) -> dict[str, float]:
    clients = [Client(address) for _ in range(connections)]
    server = psutil.Process(pid)
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=_mix, args=(client, ids, end, i)) for i, client in enumerate(clients)]
    cpu, began = _cpu(server), time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, wall = _cpu(server) - cpu, time.monotonic() - began
    count = sum(client.count for client in clients)
    return {
        "requests_per_s": round(count / wall),
        "requests_per_cpu_s": round(count / spent),
        "server_rss_mb": round(server.memory_info().rss / 2**20),
    }


def _mix(client: Client, ids: list[str], end: float, seed: int) -> None:
    """Mostly reads of one pod on every surface, and every tenth time a pod made and given back."""
    rng = random.Random(seed)
    while time.monotonic() < end:
        for _ in range(6):
            client.ask("GET", f"/v2/pods/{rng.choice(ids)}")
        client.ask("GET", f"/v1/pods/{rng.choice(ids)}")
        client.ask("POST", "/graphql", QUERY + f', "variables": {{"id": "{rng.choice(ids)}"}}}}')
        client.ask("DELETE", f"/v2/pods/{client.create('short')}")


def _listing(client: Client) -> dict[str, float]:
    spans = []
    for _ in range(10):
        began = time.perf_counter()
        size = len(client.ask("GET", "/v2/pods"))
        spans.append(time.perf_counter() - began)
    return {"list_1000_ms": round(min(spans) * 1000, 1), "list_1000_kb": size // 1024}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class BillChecker:
    """Price x time of every pod, in USD, kept apart from the ledger and in exact fractions."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, int]] = {}
        self.due = Fraction(0)

    def note(self, pod: Pod, now_ns: int) -> None:
        if pod.id in self._since:
            since, price = self._since.pop(pod.id)
            self.due += Fraction(price * (now_ns - since), HOUR * NANO)
        if pod.status not in (Status.EXITED, Status.TERMINATED):
            self._since[pod.id] = (now_ns, pod.cost_nano)


def measure_month(days: int) -> dict[str, float]:
    began = time.monotonic()
    account = Account(balance_usd=1e9, spend_limit_usd_per_hour=1e6)
    world = CloudSimulator(account, load_catalogue(), 1_795_000_000 * SECOND, seed=1)
    start, rng, book = world.now_ns, random.Random(1), BillChecker()
    for _ in range(PODS):
        book.note(_rent(world), world.now_ns)
    resident = {}
    for hour in range(1, days * 24 + 1):
        world.advance(start + hour * HOUR + rng.randrange(SECOND))
        _churn(world, rng, book)
        world.commands.clear()
        if hour in (days * 8, days * 24):
            gc.collect()
            resident[hour] = psutil.Process().memory_info().rss / 2**20
    for pod in world.all_pods():
        world.act(pod, "terminate")
        book.note(pod, world.now_ns)
    charges = world.billing.pods.charges(start, world.now_ns, "day", world.now_ns + DAY)
    billed = sum((charge.amounts for charge in charges), ZERO).compute
    early, late = (resident[hour] for hour in sorted(resident))
    return {
        "month_rss_early_mb": round(early, 1),
        "month_rss_end_mb": round(late, 1),
        "month_growth_pct": round(100 * (late - early) / early, 1),
        "month_pods": world.created_count,
        "month_usd": amount_usd(billed),
        "month_error_usd": float(abs(book.due - Fraction(billed, PICO))),
        "month_seconds": round(time.monotonic() - began, 1),
    }


def _rent(world: CloudSimulator) -> Pod:
    return world.create(PodSpec(name="p", image="i", gpu_ids=(GPU,), ports=("22/tcp",)), "v2")


def _churn(world: CloudSimulator, rng: random.Random, book: BillChecker) -> None:
    """Each hour two in a hundred pods are replaced, and five stop or start."""
    pods = world.all_pods()
    for pod in rng.sample(pods, PODS // 50):
        world.act(pod, "terminate")
        book.note(pod, world.now_ns)
        book.note(_rent(world), world.now_ns)
    for pod in rng.sample(world.all_pods(), PODS // 20):
        world.act(pod, "start" if pod.status is Status.EXITED else "stop")
        book.note(pod, world.now_ns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure_requests(arguments.seconds, arguments.connections) | measure_month(arguments.days)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    main()
