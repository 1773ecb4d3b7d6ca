"""One process of the claim race: waits for the start, claims until nothing is left, says what it got.

Started by `test_claim_race` as a program of its own, because threads of one process would take turns.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from pymongo.monitoring import CommandListener, register

from pod_worker.core.clock import SystemClock
from pod_worker.store.mongo import connect
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue


class Takes(CommandListener):
    """Counts tries to take a run, and those that came too late."""

    def __init__(self) -> None:
        self.tried = self.late = 0

    def started(self, event: Any) -> None:
        pass

    def succeeded(self, event: Any) -> None:
        if event.command_name == "findAndModify":
            self.tried += 1
            self.late += event.reply.get("value") is None

    def failed(self, event: Any) -> None:
        pass


def main(url: str, worker: str, seed: str) -> None:
    takes = Takes()
    register(takes)
    queue = RunQueue(connect(url), SystemClock(), rng=random.Random(int(seed)))
    claimant = ClaimingWorker(worker, "pod", ("synthetic",), ("synthetic",))
    queue.paused()  # connected before the start
    print("ready", flush=True)
    sys.stdin.readline()
    claims: list[tuple[str, int, str]] = []
    waits: list[float] = []
    misses = 0
    while misses < 3:  # None may also mean that other claimers took every candidate
        begun = time.perf_counter()
        claim = queue.claim(claimant)
        if claim is None:
            misses += 1
            continue
        waits.append(time.perf_counter() - begun)
        claims.append((claim.run.id, claim.lease.fence.attempt, claim.lease.fence.token))
        misses = 0
    print(json.dumps({"claims": claims, "tried": takes.tried, "late": takes.late, "waits": waits}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
