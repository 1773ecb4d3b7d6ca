"""Claims per second of sixteen claimers on one server: `RunQueue.claim` against one sorting find_one_and_update.

Both sides claim by the same condition, with the same index, and write the same fields at w:majority. Rounds take
turns, each on a fresh database with the same queue; a claimer is a thread with a connection of its own. The server
tells the write conflicts; a run that two claimers got is a duplicate.

    python -m benchmarks.claims [--claimers 16] [--processes 4] [--seconds 4] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pymongo import ReturnDocument

from pod_worker.core.clock import SystemClock
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.local.mongod import Mongod
from pod_worker.store.mongo import Mongo, connect, ensure_indexes
from pod_worker.store.queue import claiming, run_queue
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest

SIDES = ("ours", "naive")
PIPELINE = "synthetic"

ClaimOne = Callable[[], str | None]


@dataclass(frozen=True)
class Round:
    """Of one side on one database: claims per second, latency of one claim, and what it cost the server."""

    claims_per_second: float
    p50_ms: float
    p99_ms: float
    duplicates: int
    conflicts_per_claim: float
    operations_per_claim: float
    gave_up_per_claim: float  # None though there were runs
    order_kept: float  # the share of the claimed runs that belong to the front of the queue


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, list[Round]] = {side: [] for side in SIDES}
    with (
        tempfile.TemporaryDirectory(prefix="bench-claims-") as folder,
        Mongod(Path(folder), cache_gb=0.5) as mongod,
    ):
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else reversed(SIDES):
                rounds[side].append(_round(mongod.url_for(f"{side}{number}"), side, options))
    found = {side: _middle(each) for side, each in rounds.items()}
    return {
        "claimers": options.claimers,
        "processes": options.processes,
        "queued": options.queued,
        "seconds": options.seconds,
        "sides": found,
        "ratio": found["ours"]["claims_per_second"] / found["naive"]["claims_per_second"],
        "p99_ratio": found["ours"]["p99_ms"] / found["naive"]["p99_ms"],
        "duplicates": sum(each.duplicates for side in SIDES for each in rounds[side]),
        "rounds": {side: [vars(each) for each in found] for side, found in rounds.items()},
    }


def _round(url: str, side: str, options: argparse.Namespace) -> Round:
    database = connect(url)
    try:
        ensure_indexes(database, run_queue.INDEXES)
        _fill(database, options.queued)
        before = _counters(database)
        answers = _claim_together(url, side, options)
        after = _counters(database)
    finally:
        database.client.drop_database(database.name)
        database.client.close()
    return _judge(answers, {name: after[name] - before[name] for name in before})


def _fill(database: Mongo, count: int) -> None:
    queue = RunQueue(database, SystemClock())
    for start in range(0, count, 2000):
        last = min(start + 2000, count)
        queue.enqueue_many([RunRequest(f"run-{n:07d}", PIPELINE, {"seconds": 1}) for n in range(start, last)])


def _counters(database: Mongo) -> dict[str, int]:
    status = database.client.admin.command("serverStatus")
    operations = status["opcounters"]
    return {
        "conflicts": int(status["metrics"]["operation"]["writeConflicts"]),
        "operations": int(operations["query"] + operations["command"]),
    }


def _claim_together(url: str, side: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each process's claims as (run, seconds it took), and how long it was at it."""
    with _claimers(url, side, options) as processes:
        for process in processes:
            _pipe(process.stdout).readline()  # it is ready
        for process in processes:
            _pipe(process.stdin).write("go\n")
            _pipe(process.stdin).flush()
        return [json.loads(_pipe(process.stdout).readline()) for process in processes]


@contextmanager
def _claimers(url: str, side: str, options: argparse.Namespace) -> Iterator[list[subprocess.Popen[str]]]:
    threads = options.claimers // options.processes
    words = ["--as", side, "--url", url, "--claimers", str(threads), "--seconds", str(options.seconds)]
    command = [sys.executable, "-m", "benchmarks.claims", *words]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(options.processes)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _judge(answers: list[dict[str, Any]], cost: dict[str, int]) -> Round:
    claims = [(run_id, took) for answer in answers for run_id, took in answer["claims"]]
    seconds = max(answer["seconds"] for answer in answers)
    if len(claims) < 100:
        raise SystemExit(f"only {len(claims)} claims in {seconds:.1f} s: nothing to tell")
    cuts = statistics.quantiles([took * 1000 for _, took in claims], n=100)
    ids = [run_id for run_id, _ in claims]
    # The claimed runs are the first ones of the queue when order was kept; the share of those that are.
    first = {f"run-{n:07d}" for n in range(len(claims))}
    return Round(
        claims_per_second=len(claims) / seconds,
        p50_ms=cuts[49],
        p99_ms=cuts[98],
        duplicates=len(ids) - len(set(ids)),
        conflicts_per_claim=cost["conflicts"] / len(claims),
        operations_per_claim=cost["operations"] / len(claims),
        gave_up_per_claim=sum(answer["gave_up"] for answer in answers) / len(claims),
        order_kept=len(first & set(ids)) / len(first),
    )


def _middle(rounds: list[Round]) -> dict[str, float]:
    return {name: statistics.median(vars(each)[name] for each in rounds) for name in vars(rounds[0])}


# ── a process of claimers ───────────────────────────────────────────────────────────────────────────────────


def claim_away(url: str, side: str, threads: int, seconds: float) -> dict[str, Any]:
    claims: list[tuple[str, float]] = []
    gave_up: list[int] = []
    started = threading.Barrier(threads + 1)
    deadline = [0.0]

    def work(number: int) -> None:
        database = connect(url)
        database.command("ping")
        claim = _claimer(database, side, f"{number}-{random.random()}")
        started.wait()  # connected
        started.wait()  # everybody is told to go
        while (began := time.perf_counter()) < deadline[0]:
            while (run_id := claim()) is None:
                gave_up.append(number)  # a worker would poll again; here, the same claim goes on at once
                if time.perf_counter() > deadline[0] or not database.runs.find_one(
                    {"status": "QUEUED"}, {"_id": 1}
                ):
                    return
            claims.append((run_id, time.perf_counter() - began))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    started.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    deadline[0] = began + seconds
    started.wait()
    for each in workers:
        each.join()
    return {"claims": claims, "gave_up": len(gave_up), "seconds": time.perf_counter() - began}


def _claimer(database: Mongo, side: str, worker_id: str) -> ClaimOne:
    claimant = ClaimingWorker(worker_id, "pod", (PIPELINE,), (PIPELINE,), offer=WorkerOffer(region="EU"))
    queue = RunQueue(database, SystemClock())
    if side == "naive":
        return lambda: _claim_naively(database, queue, claimant)

    def claim() -> str | None:
        claimed = queue.claim(claimant)
        return claimed.run.id if claimed else None

    return claim


def _claim_naively(database: Mongo, queue: RunQueue, claimant: ClaimingWorker) -> str | None:
    """What everybody writes first: the best one, at once, in one statement. Pause is not even asked for."""
    token = f"{random.getrandbits(128):032x}"
    document = database.runs.find_one_and_update(
        claiming.claimable_filter(claimant),
        queue._claim_update(claimant, token),
        sort=claiming.CLAIM_SORT,
        hint="claim",
        return_document=ReturnDocument.AFTER,
    )
    return run_from_document(document).id if document else None


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--claimers", type=int, default=16)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--queued", type=int, default=8000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--as", dest="role", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    if options.role:
        print(json.dumps(claim_away(options.url, options.role, options.claimers, options.seconds)), flush=True)
        return
    found = measure(options)
    print(json.dumps(found) if options.json else table(found))


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['claimers']} claimers in {found['processes']} processes, {found['queued']} runs queued",
        "",
        "| | claims/s | p50 ms | p99 ms | duplicates | conflicts each | requests each | gave up | in order |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side, row in found["sides"].items():
        lines.append(
            f"| {side} | {row['claims_per_second']:,.0f} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} "
            f"| {row['duplicates']:.0f} | {row['conflicts_per_claim']:.2f} | {row['operations_per_claim']:.2f} "
            f"| {row['gave_up_per_claim']:.1%} | {row['order_kept']:.0%} |"
        )
    return "\n".join([*lines, "", f"rate {found['ratio']:.2f} × naive, p99 {found['p99_ratio']:.2f} ×"])


if __name__ == "__main__":
    main()
