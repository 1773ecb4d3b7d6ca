"""How soon a program starts in the sandbox: warm, beside a cold interpreter with the same imports.

Warm: from the request to the result of an empty program, so the end of its process tree is included. Cold: a new
interpreter that imports what the server has loaded, without any protection.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pod_worker.core.execution import ExecutionRequest
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.layers import DEFAULT_FLOOR
from pod_worker.sandbox.starting import LocalStarter


class NeverStop:
    def check(self) -> None:
        pass

    def is_set(self) -> bool:
        return False


def measure(runs: int, cold_runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        folder = Path(name) / "node"
        folder.mkdir()
        Path(name).chmod(0o711)
        (folder / "solution.py").write_text("pass\n")
        request = ExecutionRequest(folder=folder, argv=("solution.py",))
        began = time.perf_counter()
        with SandboxClient(LocalStarter(), DEFAULT_FLOOR) as client:
            ready = time.perf_counter() - began
            warm = sorted(_seconds(client, request) for _ in range(runs))
            loaded, layers = client.server.preloaded, client.layers
        cold = [_cold_seconds(loaded) for _ in range(cold_runs)]
    return {
        "warm_p50_s": round(statistics.median(warm), 4),
        "warm_p95_s": round(warm[int(len(warm) * 0.95)], 4),
        "warm_min_s": round(warm[0], 4),
        "cold_p50_s": round(statistics.median(cold), 2),
        "server_ready_s": round(ready, 2),
        "preloaded": list(loaded),
        "layers": list(layers),
    }


def _seconds(client: SandboxClient, request: ExecutionRequest) -> float:
    began = time.perf_counter()
    result = client.execute(request, NeverStop())
    assert result.is_ok, result
    return time.perf_counter() - began


def _cold_seconds(modules: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--cold-runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    given = parser.parse_args()
    found = measure(given.runs, given.cold_runs)
    if given.json:
        print(json.dumps(found))
        return
    p50, p95 = found["warm_p50_s"] * 1000, found["warm_p95_s"] * 1000
    print(f"warm start, median of {given.runs}: {p50:.0f} ms (95 %: {p95:.0f} ms)")
    print(f"cold start with the same imports: {found['cold_p50_s']:.1f} s")


if __name__ == "__main__":
    main()
