"""What one line of `pod_worker.report` costs the training loop, beside a bare write of the same bytes.

The events file is followed meanwhile by the reader of the worker, in a process of its own. Calls alternate between
the two, so that both have the same machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.figures import print_figures
from pod_worker.command.reports.events_file import EventsFileReader
from pod_worker.core.stage import Context

FOLLOW = "--follow"


def measure(lines: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        events = Path(name) / "events.ndjson"
        events.touch()
        reader = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.report_line", FOLLOW, str(events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout
        assert reader.stdout.readline() == "ready\n"
        costs = _costs(events, lines)
        seen = int(reader.communicate("end\n", timeout=300)[0])
    found: dict[str, Any] = {"lines": lines, "lines_seen_by_the_worker": seen}
    for what, values in costs.items():
        found[f"{what}_p50_us"] = round(statistics.median(values), 2)
        found[f"{what}_p99_us"] = round(statistics.quantiles(values, n=100)[98], 2)
    return found | {"load": round(os.getloadavg()[0], 1)}


def _costs(events: Path, lines: int) -> dict[str, list[float]]:
    os.environ["POD_WORKER_EVENTS"] = str(events)
    from pod_worker import report

    bare = os.open(events.with_name("bare"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    data = b'{"metric":"loss","value":0.3333333333333333,"step":123456}\n'
    calls: dict[str, Callable[[int], object]] = {
        "metric": lambda step: report.metric("loss", 1 / (step + 3), step),
        "checkpoint": lambda _step: report.checkpoint(),
        "should_stop": lambda _step: report.should_stop(),
        "bare_write": lambda _step: os.write(bare, data),
    }
    found: dict[str, list[float]] = {what: [] for what in calls}
    for step in range(lines):
        for what, call in calls.items():
            began = time.perf_counter_ns()
            call(step)
            found[what].append((time.perf_counter_ns() - began) / 1000)
    os.close(bare)
    return found


def follow(events: Path) -> None:
    """Read the file as the worker does, until a line comes on standard input."""
    seen = 0

    def count(*_given: object) -> None:
        nonlocal seen
        seen += 1

    context = SimpleNamespace(stage="command", emit=count, log=lambda *_given: None)
    reader = EventsFileReader(events, cast(Context, context), on_checkpoint=count)
    with reader:
        print("ready", flush=True)
        sys.stdin.readline()
    print(seen + reader.thinned)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=50_000, help="Metric lines.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(FOLLOW, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        follow(arguments.follow)
        return
    found = measure(arguments.lines)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
