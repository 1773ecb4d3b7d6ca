"""`python -m benchmarks`: every measurement of this folder in one run, as a table of ratios, kept as JSON.

Machines differ and are noisy, so each figure stands beside a peer or a physical limit measured in the same run.
Each measurement is a program (`python -m benchmarks.NAME --json`); this one runs them one after another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pod_worker.cli.startup import prepare_process

RESULTS = Path(".tools") / "bench.json"


@dataclass(frozen=True)
class Line:
    what: str
    found: str
    reach: str
    is_reached: bool


def emit(found: dict[str, Any]) -> list[Line]:
    rows = {row["name"]: row for row in found["rows"]}
    ours = rows["pod_worker"]
    lines = [
        Line("emit p50", f"{ours['p50_us']:.1f} µs", "≤ 30 µs", ours["p50_us"] <= 30),
        Line("emit rate, one thread", f"{ours['rate']:,.0f}/s", "≥ 20 000/s", ours["rate"] >= 20_000),
    ]
    for rival in ("tensorboard", "wandb"):
        if rival in rows:
            ratio = rows[rival]["p50_us"] / ours["p50_us"]
            lines.append(Line(f"emit beside {rival}", f"{ratio:.1f} × as fast", "> 1", ratio > 1))
    return lines


def ingest(found: dict[str, Any]) -> list[Line]:
    ratio = found["ratio"]
    return [Line("ingest beside raw insert_many", f"{ratio:.2f} ×", "≥ 0.5 ×", ratio >= 0.5)]


def pickup(found: dict[str, Any]) -> list[Line]:
    return [
        Line("pickup p50", f"{found['pickup_p50_s']:.3f} s", "≤ 0.3 s", found["pickup_p50_s"] <= 0.3),
        Line(
            "pickup without a change stream, longest",
            f"{found['polled_max_s']:.1f} s",
            f"≤ {found['poll_seconds']:g} s",
            found["polled_max_s"] <= found["poll_seconds"] + 0.5,
        ),
        Line("idle supervisor, resident", f"{found['idle_rss_mb']:.0f} MB", "≤ 70 MB", found["idle_rss_mb"] <= 70),
        Line("idle supervisor, CPU", f"{found['idle_cpu_pct']:.2f} %", "≤ 0.5 %", found["idle_cpu_pct"] <= 0.5),
        Line(
            "idle queries", f"{found['idle_queries_per_s']:.2f}/s", "≤ 0.2/s", found["idle_queries_per_s"] <= 0.2
        ),
        Line(
            "pod-worker --help",
            f"{found['help_s']:.2f} s ({found['help_s'] / found['python_s']:.1f} × bare Python)",
            "≤ 0.3 s",
            found["help_s"] <= 0.3,
        ),
    ]


def training(found: dict[str, Any]) -> list[Line]:
    ratio = found["ratio"]
    return [Line("training beside HF Trainer, loss-bearing tokens/s", f"{ratio:.2f} ×", "≥ 1.3 ×", ratio >= 1.3)]


def fake_runpod(found: dict[str, Any]) -> list[Line]:
    rate, error, growth = found["requests_per_cpu_s"], found["month_error_usd"], found["month_growth_pct"]
    return [
        Line("fake RunPod, 1 000 pods, one core", f"{rate:,.0f} requests/CPU-s", "≥ 500/s", rate >= 500),
        Line("fake RunPod, a month: bill beside price × time", f"{error:.1e} USD", "≤ 1e-6", error <= 1e-6),
        Line("fake RunPod, a month: memory from day 10 on", f"{growth:+.1f} %", "≤ 10 %", growth <= 10),
    ]


def claims(found: dict[str, Any]) -> list[Line]:
    ratio, p99 = found["ratio"], found["p99_ratio"]
    return [
        Line("claims/s beside one sorting statement, 16 claimers", f"{ratio:.2f} ×", "≥ 1 ×", ratio >= 1),
        Line("p99 of a claim beside the same", f"{p99:.2f} ×", "≤ 1 ×", p99 <= 1),
        Line("runs claimed twice", f"{found['duplicates']}", "0", found["duplicates"] == 0),
    ]


def load(found: dict[str, Any]) -> list[Line]:
    each, crowd, flow = found["idle"]["per_worker_per_s"], found["claims"], found["ingest"]
    growth = flow["rss_growth"]
    return [
        Line(f"queries of {found['workers']} idle workers, each", f"{each:.2f}/s", "≤ 0.25/s", each <= 0.25),
        Line(
            f"claims/s beside one sorting statement, {found['workers']} claimers",
            f"{crowd['ratio']:.2f} ×",
            "≥ 1 ×",
            crowd["ratio"] >= 1,
        ),
        Line(
            f"ingest for {flow['seconds']:g} s at {flow['events_per_second']:,.0f} events/s, p99",
            f"{flow['p99_ms']:.0f} ms",
            "≤ 1000 ms",
            flow["p99_ms"] <= 1000,
        ),
        Line("events of it that are missing", f"{flow['missing']}", "0", flow["missing"] == 0),
        Line("memory of the control plane meanwhile", f"{growth:+.1%}", "≤ +5 %", growth <= 0.05),
    ]


def lists(found: dict[str, Any]) -> list[Line]:
    pages = [row["p95_ms"] for part in ("models", "http") for row in found[part].values()]
    client = found["command"]["import of the MongoDB driver"]["p50_ms"]
    whole = found["command"]["pod-worker runs list"]["p95_ms"]
    unindexed = [name for name, plan in found["plans"].items() if not plan["uses_index"]]
    size = f"{found['runs']:,} runs, {found['events']:,} events"
    return [
        Line(f"a page of {size}, slowest p95", f"{max(pages):.0f} ms", "≤ 300 ms", max(pages) <= 300),
        Line("pod-worker runs list, p95", f"{whole:.0f} ms", "≤ 300 ms", whole <= 300),
        Line(
            "the same less Python and the driver's import",
            f"{whole - client:.0f} ms",
            "≤ 300 ms",
            whole - client <= 300,
        ),
        Line("queries without an index", ", ".join(unindexed) or "none", "none", not unindexed),
    ]


def peers(found: dict[str, Any]) -> list[Line]:
    ours = next(row for row in found["rescues"] if row["name"] == "pod_worker" and not row["is_best"])
    others = [row["seconds"] for row in found["rescues"] if row["name"] != "pod_worker" and not row["is_best"]]
    fastest = min((seconds for seconds in others if seconds), default=None)
    shown = "none within the wait" if fastest is None else f"{fastest:.0f} s"
    took = ours["seconds"]
    lines = [
        Line(
            f"worker killed, as shipped: the run goes on (best peer: {shown})",
            f"{took:.0f} s" if took else "never",
            "≤ 75 s",
            bool(took) and took <= 75,
        )
    ]
    for row in found["speeds"]:
        shown = f"{row['pickup_p50_ms']:.0f} ms; {row['tasks_per_second']:.0f} no-ops/s"
        lines.append(Line(f"pickup p50, {row['name']} ({row['durability']})", shown, "told, not judged", True))
    return lines


def recorders(found: dict[str, Any]) -> list[Line]:
    lines = []
    for row in found["rows"]:
        burst, away, is_ours = row["burst"], row["away"], row["name"] == "pod_worker"
        told = f"{burst['lost']:.0f} of {burst['calls']:.0f}"
        if away:
            told += f"; server away: {away['lost']:.0f} lost, longest call {away['longest_call_s']:.2f} s"
        is_kept = burst["lost"] <= 0 and (not away or away["lost"] <= 0)
        reach = "0 lost" if is_ours else "told, not judged"
        lines.append(Line(f"{row['name']}: points lost to SIGKILL", told, reach, is_kept or not is_ours))
    return lines


def research(found: dict[str, Any]) -> list[Line]:
    start, busy = found["start"], found["busy"]
    lines = [
        Line(
            f"warm start of a program, median of {start['warm']} (cold: {start['cold_p50_ms']:,.0f} ms)",
            f"{start['warm_p50_ms']:.0f} ms, {start['ratio']:.0f} × as fast",
            "< 60 ms",
            start["warm_p50_ms"] < 60,
        )
    ]
    for row in found["rates"]:
        ratio, other = row["ratio"], row["beside_original"]
        what = f"executed nodes/h, 2 slots, model latency {row['latency_s']:g} s"
        peer = f"{row['original_per_hour']} of AI-Scientist-v2, measured before on such a machine"
        lines += [
            Line(f"{what}, beside a barrier with cold starts", f"{ratio:.1f} ×", "≥ 5 ×", ratio >= 5),
            Line(
                f"the same beside {peer}",
                f"{row['per_hour']:,}, {other:.1f} ×",
                "≥ 3 ×",
                other >= 3,
            ),
        ]
    calls = max(row["calls_per_node"] for row in found["rates"])
    share = busy["share_with_end_of_stage"]
    return [
        *lines,
        Line("model calls per executed node (AI-Scientist-v2: 15.7)", f"{calls:.1f}", "≤ 5", calls <= 5),
        Line(
            f"slots busy, programs of 0.1 s and 1 s, 4 slots (barrier: {busy['control_share']:.0%})",
            f"{share:.0%}",
            "≥ 90 %",
            share >= 0.9,
        ),
    ]


def sandbox_start(found: dict[str, Any]) -> list[Line]:
    warm, cold = found["warm_p50_s"] * 1000, found["cold_p50_s"] * 1000
    what = f"warm start of an empty program (cold: {cold:,.0f} ms)"
    return [Line(what, f"{warm:.0f} ms", "< 60 ms", warm < 60)]


def checkpoint_snapshot(found: dict[str, Any]) -> list[Line]:
    share, cpu = found["uploaded_share"], found["cpu_s_per_300_mb"]
    beside = f"sha256sum {found['sha256sum_cpu_s_per_300_mb']:.2f}, cp {found['cp_cpu_s_per_300_mb']:.2f}"
    return [
        Line("snapshot of 1 GB, 1 % changed: bytes uploaded", f"{share:.1%}", "≤ 5 %", share <= 0.05),
        Line(f"the same: CPU for 300 MB ({beside})", f"{cpu:.2f} core·s", "≤ 1 core·s", cpu <= 1),
    ]


def report_line(found: dict[str, Any]) -> list[Line]:
    ours, bare = found["metric_p50_us"], found["bare_write_p50_us"]
    lost = 2 * found["lines"] - found["lines_seen_by_the_worker"]
    return [
        Line(
            f"report.metric() in a training loop, p50 (bare write: {bare:.1f} µs)",
            f"{ours:.1f} µs",
            "≤ 10 µs",
            ours <= 10,
        ),
        Line("reported lines that the worker did not see", f"{lost}", "0", lost == 0),
    ]


def workdir_upload(found: dict[str, Any]) -> list[Line]:
    size = f"{found['files']:,} files, {found['bytes'] / 1e6:.0f} MB"
    first, same = found["submit_first_s"], found["submit_unchanged_s"]
    ask, rclone = found["scan_and_upload_unchanged_s"], found["rclone_first_s"]
    return [
        Line(f"submit of {size}, first (rclone copy: {rclone:.1f} s)", f"{first:.1f} s", "≤ 5 s", first <= 5),
        Line(
            f"the same, unchanged (rclone copy: {found['rclone_unchanged_s']:.2f} s; without a workdir: "
            f"{found['submit_without_workdir_s']:.2f} s)",
            f"{same:.2f} s",
            "≤ 0.5 s",
            same <= 0.5,
        ),
        Line("of it, the unchanged workdir", f"{ask:.2f} s", "≤ 0.5 s", ask <= 0.5),
    ]


def command_overhead(found: dict[str, Any]) -> list[Line]:
    over, bare = found["stage_p50_s"] - found["bare_s"], found["stage_without_workdir_p50_s"]
    return [
        Line(
            f"overhead of a command, 2 000 files of workdir on the pod (cp -r of them: {found['cp_p50_s']:.2f} s)",
            f"{over:.2f} s",
            "≤ 0.5 s",
            over <= 0.5,
        ),
        Line("overhead of a command without a workdir", f"{bare:.2f} s", "≤ 0.5 s", bare <= 0.5),
    ]


# name -> (arguments, how its JSON becomes lines)
PROGRAMS: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[Line]]]] = {
    "emit": (["--repeats", "2"], emit),
    "ingest": ([], ingest),
    "pickup": (["--idle-seconds", "30"], pickup),
    "claims": ([], claims),
    "load": (["--ingest-seconds", "60"], load),
    "lists": ([], lists),
    "peers": ([], peers),
    "recorders": ([], recorders),
    "training": ([], training),
    "fake_runpod": ([], fake_runpod),
    "research": ([], research),
    "sandbox_start": ([], sandbox_start),
    "checkpoint_snapshot": ([], checkpoint_snapshot),
    "report_line": ([], report_line),
    "workdir_upload": ([], workdir_upload),
    "command_overhead": ([], command_overhead),
}


def run(name: str) -> dict[str, Any]:
    words, _ = PROGRAMS[name]
    print(f"… {name}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *words, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not done.stdout.strip():
        raise SystemExit(f"benchmarks.{name} ended with code {done.returncode} and no result")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*PROGRAMS, []], help="Only these.")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {name: run(name) for name in arguments.names or PROGRAMS}
    lines = [line for name, found in results.items() for line in PROGRAMS[name][1](found)]
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    RESULTS.parent.mkdir(exist_ok=True)
    # What was not run this time keeps its figures, each with its own time.
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    fresh = {name: {"at": time.time(), "machine": machine, "found": found} for name, found in results.items()}
    RESULTS.write_text(json.dumps({"results": kept.get("results", {}) | fresh}, indent=1))
    if arguments.json:
        print(json.dumps(results))
    else:
        print(f"Python {machine['python']}, {machine['cores']} cores, {machine['system']}\n")
        print("| What | Found | Reach | |\n|---|---|---|---|")
        for line in lines:
            print(f"| {line.what} | {line.found} | {line.reach} | {'yes' if line.is_reached else '**no**'} |")
    return 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
