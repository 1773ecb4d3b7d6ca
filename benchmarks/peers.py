"""pod_worker beside Celery, RQ, Dramatiq and Procrastinate: pickup, no-op throughput, and rescue after a kill.

Two workers each, one task at a time, on this machine, in one run; each peer lives in its own environment. Ours
starts a fresh process for each run and writes with w:majority; the peers call a function in a warm process: the
no-op rate shows that price, which a run of hours does not notice. Rescue: a worker is killed with SIGKILL in the
middle of a task and another one started at once; how long until the task runs again.

    python -m benchmarks.peers [--pickups 20] [--tasks 500] [--wait-seconds 90] [--only NAME ...] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.environments import require_servers
from benchmarks.systems import PeerSystem, PodWorkerSystem, QueueSystem, kill_worker_of, until_started

OURS = "pod_worker"
PEERS = ("celery", "rq", "dramatiq", "procrastinate")
OUR_TASKS = 20
TASK_SECONDS = 600.0  # of the task whose worker is killed

# What each project says of itself, for rows whose wait is longer than ours here.
DOCUMENTED = {
    "pod_worker": "lease 60 s + 15 s",
    "celery": "early ack: lost; with acks_late, visibility timeout 1 h",
    "rq": "job is failed, no retry, after its heartbeat (90 s) at the next maintenance (600 s)",
    "dramatiq": "60 s without a sign, looked for by 0.1 % of commands",
    "procrastinate": "never; a recipe in the manual",
}
BEST = {
    "pod_worker": "lease 9 s, renewed each 3 s, swept each 1 s",
    "celery": "acks_late, visibility timeout 10 s (tasks above 10 s run twice)",
    "rq": "Retry(max=3), maintenance each 2 s, monitoring each 1 s",
    "dramatiq": "heartbeat timeout 5 s, maintenance by 10 % of commands",
    "procrastinate": "the recipe each 2 s, heartbeat 1 s, stalled after 5 s",
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    require_servers()
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # PostgreSQL runs as a user of its own
        speeds = [] if options.no_speed else [_speed(each, options) for each in _speed_sides(root, options.only)]
        rescues = [] if options.no_rescue else _rescues(root, options)
    return {"speeds": speeds, "rescues": rescues, "wait_seconds": options.wait_seconds}


def _speed_sides(root: Path, names: list[str]) -> list[QueueSystem]:
    sides: list[QueueSystem] = [PodWorkerSystem(root / "ours")] if OURS in names else []
    for name in (each for each in PEERS if each in names):
        sides.append(PeerSystem(name, _made(root / f"{name}-durable")))
        if name != "procrastinate":
            sides.append(PeerSystem(name, _made(root / f"{name}-shipped"), durable=False))
    return sides


def _speed(side: QueueSystem, options: argparse.Namespace) -> dict[str, Any]:
    print(f"… {side.name} ({side.durability})", file=sys.stderr, flush=True)
    with side:
        until_started(side)
        if side.name == OURS:
            waits = [_pickup(side, number) for number in range(options.pickups)]
        else:
            began = side.enqueue("pickup", options.pickups, pause=0.25)
            found = side.evidence.wait_for(list(began), 60)
            waits = [found[key][0].at - at for key, at in began.items()]
        count = OUR_TASKS if side.name == OURS else options.tasks
        began = side.enqueue("noop", count)
        found = side.evidence.wait_for(list(began), 300)
        last = max(found[key][0].at for key in began)
    return {
        "name": side.name,
        "durability": side.durability,
        "pickup_p50_ms": statistics.median(waits) * 1000,
        "pickup_max_ms": max(waits) * 1000,
        "tasks_per_second": count / (last - min(began.values())),
    }


def _pickup(side: QueueSystem, number: int) -> float:
    """Ours, one by one: a worker is idle again only when the run's process has ended."""
    [(key, at)] = side.enqueue(f"pickup-{number}", 1).items()
    found = side.evidence.wait_for([key], 60)
    time.sleep(1.0)
    return found[key][0].at - at


# ── rescue ──────────────────────────────────────────────────────────────────────────────────────────────────


def _rescues(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All at once: everybody waits, and only for the clock."""
    makers: dict[tuple[str, bool], Callable[[], QueueSystem]] = {}
    for is_best in (False, True):
        for name in options.only:
            folder = _made(root / f"rescue-{name}-{is_best}")
            makers[name, is_best] = _maker(name, folder, is_best)
    with contextlib.ExitStack() as stack:
        sides = {which: stack.enter_context(make()) for which, make in makers.items()}
        for side in sides.values():
            until_started(side)
        print(f"… killing a worker of each, then up to {options.wait_seconds:g} s", file=sys.stderr, flush=True)
        killed = {which: _kill(side) for which, side in sides.items()}
        found = _await_second_starts(sides, killed, options.wait_seconds)
    return [
        {
            "name": sides[which].name,
            "settings": BEST[which[0]] if which[1] else "as shipped",
            "is_best": which[1],
            "seconds": found.get(which),
            "documented": None if which[1] else DOCUMENTED[which[0]],
        }
        for which in makers
    ]


def _maker(name: str, folder: Path, is_best: bool) -> Callable[[], QueueSystem]:
    return lambda: (
        PodWorkerSystem(folder, is_best=is_best) if name == OURS else PeerSystem(name, folder, is_best=is_best)
    )


def _kill(side: QueueSystem) -> tuple[str, float]:
    [key] = side.enqueue("long", 1, seconds=TASK_SECONDS)
    start = side.evidence.wait_for([key], 60)[key][0]
    time.sleep(1.0)
    at = kill_worker_of(side, start.pid)
    side.start_worker()
    return key, at


def _await_second_starts(
    sides: dict[tuple[str, bool], QueueSystem], killed: dict[tuple[str, bool], tuple[str, float]], seconds: float
) -> dict[tuple[str, bool], float]:
    found: dict[tuple[str, bool], float] = {}
    deadline = time.monotonic() + seconds
    while len(found) < len(sides) and time.monotonic() < deadline:
        for which in sides.keys() - found.keys():
            key, at = killed[which]
            starts = sides[which].evidence.starts()[key]
            if len(starts) > 1:
                found[which] = starts[1].at - at
        time.sleep(0.1)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────


def tables(found: dict[str, Any]) -> str:
    lines = ["| | durable | pickup p50 ms | pickup max ms | no-op tasks/s |", "|---|---|---|---|---|"]
    for row in found["speeds"]:
        lines.append(
            f"| {row['name']} | {row['durability']} | {row['pickup_p50_ms']:.1f} | {row['pickup_max_ms']:.0f} "
            f"| {row['tasks_per_second']:.1f} |"
        )
    lines += ["", "| worker killed: runs again after | settings | s | documented |", "|---|---|---|---|"]
    for row in found["rescues"]:
        waited = f"{row['seconds']:.1f}" if row["seconds"] else f"not within {found['wait_seconds']:g}"
        lines.append(f"| {row['name']} | {row['settings']} | {waited} | {row['documented'] or ''} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pickups", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=500, help=f"no-op tasks of a peer; ours does {OUR_TASKS}")
    parser.add_argument("--wait-seconds", type=float, default=90.0)
    parser.add_argument("--only", nargs="+", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--no-rescue", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found) if options.json else tables(found))


if __name__ == "__main__":
    main()
