"""Recording metrics beside MLflow, W&B, Trackio and TensorBoard: cost of a call, and what is lost when things die.

Each recorder runs in its own environment with its own defaults: MLflow on a local SQLite file, W&B offline,
Trackio and TensorBoard on local files. The process is SIGKILLed right after its last call; ten seconds later, what
is on disk is read back by that recorder's own format. For the two that have a server of their own to talk to
(ours and MLflow's), it is also away for a while in the middle of a steady trickle of calls.

    python -m benchmarks.recorders [--events 1000] [--away-seconds 20] [--only NAME ...] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "pod_worker"
RECORDERS = (OURS, "tensorboard", "wandb", "trackio", "mlflow")
WARM_UP = 20
SETTLE_SECONDS = 10.0  # for whatever outlives the killed process (W&B's service does)
PACED, PACE = 100, 50.0  # calls, and calls per second
FEWER = {"mlflow": 5}  # the slow one tells the same with fewer calls at once
TRICKLE_PER_SECOND = 20.0
RUN_ID = "01BENCH"

Record = Callable[[int], None]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for name in options.only:
        print(f"… {name}", file=sys.stderr, flush=True)
        burst = _killed(name, options.events // FEWER.get(name, 1), 0.0)
        paced = _killed(name, PACED, PACE)
        rows.append({"name": name, "burst": burst, "paced": paced, "away": _away(name, options.away_seconds)})
    return {"events": options.events, "paced": PACED, "away_seconds": options.away_seconds, "rows": rows}


def _killed(name: str, events: int, pace: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        words = ["--folder", folder, "--events", str(events), "--pace", str(pace)]
        process = _start(name, "--record", name, *words)
        line = process.stdout.readline() if process.stdout else ""
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not line:
            raise SystemExit(f"{name} recorded nothing")
        time.sleep(SETTLE_SECONDS)
        counter = _start(name, "--count", name, "--folder", folder)
        kept = int(counter.communicate()[0].splitlines()[-1])
    found: dict[str, float] = json.loads(line)
    return found | {"calls": events + WARM_UP, "lost": events + WARM_UP - kept}


def _start(name: str, *words: str, **more: str) -> subprocess.Popen[str]:
    from benchmarks.environments import python_for

    python = sys.executable if name == OURS else python_for(name)
    env = os.environ | {"PYTHONPATH": str(ROOT)} | more
    argv = [python, "-m", "benchmarks.recorders", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=env, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)


# ── the server is away ──────────────────────────────────────────────────────────────────────────────────────


def _away(name: str, seconds: float) -> dict[str, float] | None:
    """A trickle of calls; the server stops after three seconds of it and is back `seconds` later."""
    measures = {OURS: _away_ours, "mlflow": _away_mlflow}
    if name not in measures or not seconds:
        return None
    with tempfile.TemporaryDirectory(prefix="bench-away-") as folder:
        return measures[name](Path(folder), seconds)


def _away_ours(folder: Path, seconds: float) -> dict[str, float]:
    from pod_worker.cli.stack.up import LocalStack
    from pod_worker.store.mongo import connect

    local = LocalStack(folder / "stack", threading.Event())
    local.start()
    try:
        calls = int((seconds + 8) * TRICKLE_PER_SECOND)
        words = ["--record", OURS, "--folder", str(folder), "--events", str(calls), "--url", local.url]
        process = _start(OURS, *words, "--pace", str(TRICKLE_PER_SECOND), BENCH_TOKEN=local.token)
        time.sleep(3)
        local.stack.remove("control")
        time.sleep(seconds)
        argv = [sys.executable, "-m", "pod_worker", "control", "--port", str(local.port)]
        local.stack.start_process("control", argv, local.env())
        found = json.loads(process.communicate("end\n", timeout=300)[0].splitlines()[0])
        kept = connect(local.stack.mongodb_url).events.count_documents({"runId": RUN_ID})
    finally:
        local.stack.kill()
    calls += WARM_UP
    return {"calls": calls, "lost": calls - kept, "longest_call_s": found["longest_s"]}


def _away_mlflow(folder: Path, seconds: float) -> dict[str, float]:
    from benchmarks.environments import python_for
    from pod_worker.local.process import ChildProcess, free_port

    port = free_port()
    argv = [python_for("mlflow"), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its job runners outlive it
    server = ChildProcess("mlflow server", argv, folder / "server.log", env=env, cwd=folder)
    url = f"http://127.0.0.1:{port}"
    try:
        server.start()
        server.wait_until(lambda: _answers(url), 120)
        calls = int((seconds + 8) * TRICKLE_PER_SECOND)
        words = ["--record", "mlflow", "--folder", str(folder), "--events", str(calls), "--url", url]
        process = _start("mlflow", *words, "--pace", str(TRICKLE_PER_SECOND))
        deadline = time.monotonic() + 120
        while _count_mlflow(folder) < WARM_UP + 2 * TRICKLE_PER_SECOND and time.monotonic() < deadline:
            time.sleep(0.1)
        server.kill()
        time.sleep(seconds)
        server.start()
        found = json.loads(process.communicate("end\n", timeout=600)[0].splitlines()[0])
        kept = _count_mlflow(folder)
    finally:
        server.kill()
    calls += WARM_UP
    return {"calls": calls, "lost": calls - kept, "longest_call_s": found["longest_s"]}


def _answers(url: str) -> bool:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# ── in the recorder's environment: record ───────────────────────────────────────────────────────────────────


def record(options: argparse.Namespace) -> None:
    """Call, tell what the calls cost, and wait: to be killed, or for a line that says to end in peace."""
    call, finish = OPENERS[options.record](options.folder, options.url)
    for step in range(WARM_UP):
        call(step)
    took = []
    for step in range(WARM_UP, WARM_UP + options.events):
        began = time.perf_counter()
        try:
            call(step)
        except Exception as error:  # as a training loop does that will not die for a metric
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        took.append(time.perf_counter() - began)
        if options.pace:
            time.sleep(max(0.0, 1 / options.pace - took[-1]))
    cuts = statistics.quantiles(took, n=100)
    found = {"p50_us": cuts[49] * 1e6, "p99_us": cuts[98] * 1e6, "longest_s": max(took)}
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
    finish()


def _open_ours(folder: Path, url: str | None) -> tuple[Record, Callable[[], None]]:
    from pod_worker.core.clock import SystemClock
    from pod_worker.core.payload import StageMetric
    from pod_worker.outbox import RunEmitter, Spool, UlidGenerator
    from pod_worker.outbox.shipper import Shipper

    clock = SystemClock()
    spool = Spool.open(folder / "spool", "bench", clock=clock)
    emitter = RunEmitter(spool, "runpod://pod/bench", RUN_ID, 1, clock, UlidGenerator(clock))
    shipper = Shipper([spool], url, os.environ["BENCH_TOKEN"]) if url else None
    if shipper:
        shipper.start()

    def call(step: int) -> None:
        emitter.emit(StageMetric(stage="training", name="loss", value=1.0 / (step + 1), step=step, epoch=0.5))

    def finish() -> None:
        if shipper:
            shipper.flush(120)
            shipper.stop()

    return call, finish


def _open_tensorboard(folder: Path, url: str | None) -> tuple[Record, Callable[[], None]]:
    from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-not-found]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-not-found]

    writer = EventFileWriter(str(folder))

    def call(step: int) -> None:
        value = summary_pb2.Summary.Value(tag="loss", simple_value=1.0 / (step + 1))
        event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=[value]))
        writer.add_event(event)

    return call, writer.close


def _open_wandb(folder: Path, url: str | None) -> tuple[Record, Callable[[], None]]:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONSOLE="off", WANDB_DIR=str(folder))
    import wandb  # type: ignore[import-not-found]

    run = wandb.init(project="bench", dir=str(folder), settings=wandb.Settings(x_disable_stats=True))
    return lambda step: run.log({"loss": 1.0 / (step + 1)}, step=step), run.finish


def _open_trackio(folder: Path, url: str | None) -> tuple[Record, Callable[[], None]]:
    os.environ["TRACKIO_DIR"] = str(folder)
    import trackio  # type: ignore[import-not-found]

    with open(os.devnull, "w") as quiet:
        sys.stdout, shown = quiet, sys.stdout
        trackio.init(project="bench", embed=False, auto_log_gpu=False, auto_log_cpu=False)
        sys.stdout = shown
    return lambda step: trackio.log({"loss": 1.0 / (step + 1)}, step=step), trackio.finish


def _open_mlflow(folder: Path, url: str | None) -> tuple[Record, Callable[[], None]]:
    import mlflow  # type: ignore[import-not-found]

    mlflow.set_tracking_uri(url or f"sqlite:///{folder}/mlflow.db")
    mlflow.start_run()
    return lambda step: mlflow.log_metric("loss", 1.0 / (step + 1), step=step), mlflow.end_run


OPENERS: dict[str, Callable[[Path, str | None], tuple[Record, Callable[[], None]]]] = {
    OURS: _open_ours,
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}


# ── in the recorder's environment: read back ────────────────────────────────────────────────────────────────


def _count_ours(folder: Path) -> int:
    lines = b"".join(path.read_bytes() for path in (folder / "spool").rglob("*.ndjson")).split(b"\n")
    return sum(1 for line in lines if line and json.loads(line)["type"] == "ai.run.stage_metric")


def _count_tensorboard(folder: Path) -> int:
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-not-found]
        EventFileLoader,
    )

    return sum(
        1 for path in folder.iterdir() for event in EventFileLoader(str(path)).Load() if event.summary.value
    )


def _count_wandb(folder: Path) -> int:
    from wandb.proto.wandb_internal_pb2 import Record as WandbRecord  # type: ignore[import-not-found]

    [path] = folder.rglob("*.wandb")
    return sum(
        1 for body in _leveldb_records(path.read_bytes()) if WandbRecord.FromString(body).HasField("history")
    )


def _leveldb_records(data: bytes) -> list[bytes]:
    """The format of a `.wandb` file: LevelDB's log (leveldb/doc/log_format.md) after seven bytes of header."""
    found, part, place = [], b"", 7
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        body = data[place + 7 : place + 7 + size]
        if kind == 0 or len(body) < size:
            break
        part = body if kind in (1, 2) else part + body
        found += [part] if kind in (1, 4) else []
        place += 7 + size
    return found


def _count_trackio(folder: Path) -> int:
    return sum(_rows(path, "metrics") for path in folder.rglob("*.db"))


def _count_mlflow(folder: Path) -> int:
    return _rows(folder / "mlflow.db", "metrics")


def _rows(path: Path, table: str) -> int:
    import sqlite3

    database = sqlite3.connect(path, timeout=30)
    try:
        return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        database.close()


COUNTERS: dict[str, Callable[[Path], int]] = {
    OURS: _count_ours,
    "tensorboard": _count_tensorboard,
    "wandb": _count_wandb,
    "trackio": _count_trackio,
    "mlflow": _count_mlflow,
}


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────


def table(found: dict[str, Any]) -> str:
    lines = [
        f"| | call p50 µs | p99 µs | lost at once, SIGKILL | at {PACE:g}/s, SIGKILL "
        f" | server away {found['away_seconds']:g} s: lost | longest call s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        burst, away = row["burst"], row["away"]
        at_once = f"{burst['lost']:.0f} of {burst['calls']:.0f}"
        server = (
            f"{away['lost']:.0f} of {away['calls']:.0f} | {away['longest_call_s']:.3f}" if away else "no server |"
        )
        lines.append(
            f"| {row['name']} | {burst['p50_us']:.1f} | {burst['p99_us']:.1f} | {at_once} "
            f"| {row['paced']['lost']:.0f} of {row['paced']['calls']:.0f} | {server} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--away-seconds", type=float, default=20.0)
    parser.add_argument("--only", nargs="+", choices=RECORDERS, default=list(RECORDERS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", choices=RECORDERS, help=argparse.SUPPRESS)
    parser.add_argument("--count", choices=RECORDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pace", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record:
        record(options)
    elif options.count:
        print(COUNTERS[options.count](options.folder))
    else:
        found = measure(options)
        print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
