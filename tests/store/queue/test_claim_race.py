"""Many processes and one queue: every run is claimed once, and the race costs little."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.store.queue.run_queue import RunQueue, RunRequest

Db = Database[dict[str, Any]]
PROCESSES = 8
RUNS = 400


def race(url: str) -> list[dict[str, Any]]:
    """What each process got."""
    with ExitStack() as started:
        racers = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.store.claim_racer", url, f"w{number}", str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(PROCESSES)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        results = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
        assert [racer.returncode for racer in racers] == [0] * PROCESSES
    return results


@pytest.mark.slow
def test_eight_processes_claim_every_run_exactly_once(mongodb_url: str, db: Db) -> None:
    RunQueue(db, SystemClock()).enqueue_many(
        [RunRequest(f"r{number:04d}", "synthetic", {}) for number in range(RUNS)]
    )

    results = race(mongodb_url)

    claims = [tuple(claim) for result in results for claim in result["claims"]]
    times = Counter(run_id for run_id, _, _ in claims)
    assert len(times) == RUNS, "runs that were never claimed"
    assert set(times.values()) == {1}, "runs that were claimed twice"
    owners = {claim[0]: f"w{number}" for number, result in enumerate(results) for claim in result["claims"]}
    for document in db.runs.find():
        run_id = document["_id"]
        assert (run_id, document["attempt"], document["leaseToken"]) in claims
        assert (document["status"], document["attempt"]) == ("SCHEDULED", 1)
        assert document["claimedBy"] == owners[run_id]
    # Losing a race costs another try on another run, never a storm of tries on the hot one.
    tried, late = (sum(result[name] for result in results) for name in ("tried", "late"))
    assert tried - late == RUNS
    assert late < 4 * RUNS, f"{late} tries came too late for {RUNS} claims"
    assert sum(bool(result["claims"]) for result in results) >= PROCESSES // 2, "one process took it all"
    waits = sorted(wait for result in results for wait in result["waits"])
    print(
        f"{RUNS} claims by {PROCESSES} processes: {late / RUNS:.2f} late tries a claim, "
        f"p50 {1000 * waits[len(waits) // 2]:.1f} ms, p99 {1000 * waits[len(waits) * 99 // 100]:.1f} ms"
    )
