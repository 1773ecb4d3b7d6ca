"""What one `emit` costs the training process, beside the two recorders that people know, in one run.

Ours is on disk when it returns; tensorboard's EventFileWriter and wandb (offline) have queued it for a thread
or another process by then, and lose the queue if the process is killed. Each rival lives in a venv of its own
under `.tools/`, made on first use. The SQLite row is the other spool that was considered (decision 002).

    python benchmarks/emit.py [--events 10000] [--repeats 3] [--json] [--only NAME ...] [--check]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pod_worker.core.payload import Payload

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
RIVALS = {"tensorboard": ["tensorboard==2.21.0", "setuptools<81"], "wandb": ["wandb==0.31.0"]}
OURS = "pod_worker"
ROWS = (OURS, "sqlite", "tensorboard", "tensorboard+flush", "wandb")
P50_TARGET_US, RATE_TARGET = 30.0, 20_000.0
WARM_UP = 500
CHUNK = 100  # calls; the median chunk leaves out those in which another process had the processor


@dataclass(frozen=True)
class Row:
    """`cpu_us`: processor time a call, all threads of this process (wandb's own process is not counted).

    `rate`: calls per second in the median chunk of a tight loop; `settled_rate`: overall, until all is on disk.
    """

    name: str
    p50_us: float
    p99_us: float
    cpu_us: float
    rate: float
    settled_rate: float
    survives_kill: bool


Record = Callable[[int], None]


def measure(name: str, record: Record, settle: Callable[[], None], events: int, survives_kill: bool) -> Row:
    for step in range(WARM_UP):
        record(step)
    settle()
    calls = []
    for step in range(events):
        before = time.perf_counter_ns()
        record(step)
        calls.append(time.perf_counter_ns() - before)
    settle()
    chunks = []
    cpu_started = time.process_time()
    started = chunk_started = time.perf_counter()
    for step in range(events):
        record(step)
        if step % CHUNK == CHUNK - 1:
            now = time.perf_counter()
            chunks.append(CHUNK / (now - chunk_started))
            chunk_started = now
    settle()
    settled, cpu = time.perf_counter(), time.process_time() - cpu_started
    cuts = statistics.quantiles(calls, n=100)
    return Row(
        name,
        statistics.median(calls) / 1000,
        cuts[98] / 1000,
        cpu / events * 1e6,
        statistics.median(chunks),
        events / (settled - started),
        survives_kill,
    )


# -- contenders, each run in a process of its own --------------------------------------------------------------


def metric(step: int) -> Payload:
    from pod_worker.core.payload import StageMetric

    return StageMetric(stage="training", name="loss", value=1.0 / (step + 1), step=step, epoch=0.5)


def run_ours(folder: Path, events: int) -> Row:
    from pod_worker.core.clock import SystemClock
    from pod_worker.outbox import RunEmitter, Spool, UlidGenerator

    clock = SystemClock()
    spool = Spool.open(folder, "bench", clock=clock)
    emitter = RunEmitter(spool, "runpod://pod/bench", "01BENCH", 1, clock, UlidGenerator(clock))
    row = measure(OURS, lambda step: ignore(emitter.emit(metric(step))), lambda: None, events, True)
    spool.close()
    return row


def run_sqlite(folder: Path, events: int) -> Row:
    """The same envelope into one table, one transaction an event, seq under the write lock."""
    from pod_worker.core.clock import SystemClock
    from pod_worker.core.payload import StageMetric
    from pod_worker.outbox import UlidGenerator
    from pod_worker.outbox.event_encoding import encode_data

    database = sqlite3.connect(folder / "spool.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE spool (seq INTEGER PRIMARY KEY, id TEXT, lane INTEGER, line BLOB)")
    clock, new_id = SystemClock(), UlidGenerator(SystemClock())
    execute = database.execute

    def record(step: int) -> None:
        event_id = new_id()
        line = b'{"specversion":"1.0","id":"%b","type":"%b","time":"%b","subject":"run/01BENCH","data":%b}' % (
            event_id.encode(),
            StageMetric.type.encode(),
            clock.now().isoformat().encode(),
            encode_data(metric(step)),
        )
        execute("BEGIN IMMEDIATE")
        seq = execute("SELECT coalesce(max(seq), 0) + 1 FROM spool").fetchone()[0]
        execute("INSERT INTO spool VALUES (?, ?, 1, ?)", (seq, event_id, line))
        execute("COMMIT")

    row = measure("sqlite", record, lambda: None, events, True)
    database.close()
    return row


def run_tensorboard(folder: Path, events: int, is_flushed: bool) -> Row:
    from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-not-found]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-not-found]

    writer = EventFileWriter(str(folder))

    def record(step: int) -> None:
        value = summary_pb2.Summary.Value(tag="training/loss", simple_value=1.0 / (step + 1))
        summary = summary_pb2.Summary(value=[value])
        writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        if is_flushed:
            writer.flush()

    name = "tensorboard+flush" if is_flushed else "tensorboard"
    row = measure(name, record, writer.flush, events, is_flushed)
    writer.close()
    return row


def run_wandb(folder: Path, events: int) -> Row:
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONSOLE="off", WANDB_DIR=str(folder))
    import wandb  # type: ignore[import-not-found]

    run = wandb.init(project="bench", dir=str(folder), settings=wandb.Settings(x_disable_stats=True))
    steps = iter(range(1 << 60))

    def record(_: int) -> None:
        step = next(steps)
        run.log({"training/loss": 1.0 / (step + 1), "epoch": 0.5}, step=step)

    # Nothing short of ending the run waits for wandb's own process, so its settled rate is a kind one.
    row = measure("wandb", record, lambda: None, events, False)
    run.finish()
    return row


def ignore(_: str) -> None:
    """A result that is not used."""


CONTENDERS: dict[str, Callable[[Path, int], Row]] = {
    OURS: run_ours,
    "sqlite": run_sqlite,
    "tensorboard": lambda folder, events: run_tensorboard(folder, events, False),
    "tensorboard+flush": lambda folder, events: run_tensorboard(folder, events, True),
    "wandb": run_wandb,
}


# -- the run ---------------------------------------------------------------------------------------------------


def python_for(name: str) -> str:
    """The interpreter that has what the contender needs; a rival's venv is made when it is missing."""
    rival = name.partition("+")[0]
    if rival not in RIVALS:
        return sys.executable
    home = TOOLS / f"bench-{rival}"
    interpreter = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing {RIVALS[rival][0]} into {home.relative_to(ROOT)} ...", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-qq", *RIVALS[rival]], check=True)
        (home / "ready").touch()
    return str(interpreter)


def run_apart(name: str, events: int) -> Row:
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix="emit-") as folder:
        command = [python_for(name), __file__, "--one", name, "--events", str(events), "--folder", folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def middle(rows: list[Row]) -> Row:
    """The median of each figure over the repeats."""

    def of(field: str) -> float:
        return float(statistics.median(getattr(row, field) for row in rows))

    p50, p99, cpu, rate, settled = (of(name) for name in ("p50_us", "p99_us", "cpu_us", "rate", "settled_rate"))
    return Row(rows[0].name, p50, p99, cpu, rate, settled, rows[0].survives_kill)


def verdicts(rows: dict[str, Row]) -> dict[str, bool]:
    ours = rows[OURS]
    found = {
        f"p50 <= {P50_TARGET_US:g} us": ours.p50_us <= P50_TARGET_US,
        f"rate >= {RATE_TARGET:g}/s": ours.rate >= RATE_TARGET,
    }
    for rival in RIVALS:
        if rival in rows:
            found[f"p50 below {rival}'s"] = ours.p50_us < rows[rival].p50_us
            found[f"rate above {rival}'s"] = ours.rate > rows[rival].rate
    return found


def table(rows: dict[str, Row]) -> str:
    head = (
        "| emit of one metric | p50 µs | p99 µs | CPU µs | calls/s | settled/s | p50 / ours | survives SIGKILL |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows.values():
        ratio = row.p50_us / rows[OURS].p50_us
        lines.append(
            f"| {row.name} | {row.p50_us:.1f} | {row.p99_us:.1f} | {row.cpu_us:.1f} | {row.rate:,.0f} "
            f"| {row.settled_rate:,.0f} | {ratio:.2f} | {'yes' if row.survives_kill else 'no'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asdict(CONTENDERS[options.one](options.folder, options.events))))
        return 0
    names = [name for name in ROWS if name == OURS or name in options.only]
    found: dict[str, list[Row]] = {name: [] for name in names}
    for _ in range(options.repeats):  # taking turns, so that a busy minute hits everybody
        for name in names:
            # A flush an event is slow: fewer of them tell the same.
            found[name].append(run_apart(name, options.events // (10 if name.endswith("+flush") else 1)))
    rows = {name: middle(repeats) for name, repeats in found.items()}
    reached = verdicts(rows)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows.values()], "reached": reached}, indent=2))
    else:
        print(table(rows))
        print("\n".join(f"{'reached' if is_met else 'MISSED '}  {what}" for what, is_met in reached.items()))
    return 1 if options.check and not all(reached.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
