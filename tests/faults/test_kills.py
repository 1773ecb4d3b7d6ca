"""SIGKILL at random points of a run: its worker, guard, child, sandbox and the program that it executes.

The run, its queue and all processes are real. KILLS=100 kills as often; KILLS_SEED draws others.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.run import TERMINAL, RunStatus
from pod_worker.llm.factory import LEDGER_FILE
from pod_worker.llm.spending.ledger import CallRow, CallStatus, read_ledger, read_rows
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.layers import DEFAULT_FLOOR
from pod_worker.sandbox.starting import LocalStarter
from pod_worker.search.choice.stages import STAGE_RULES
from pod_worker.search.tree.journal import JOURNAL_NAME, read_state
from pod_worker.search.tree.state import SearchState
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from tests.faults import killed_pipeline
from tests.faults.killed_pipeline import CAP_USD, MODULES, NAME, PAID_FILE, PID_FILE, search_stage
from tests.sandbox.support import NeverStop, floor, is_open, open_python
from tests.search.fakes import tree_of

Db = Database[dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("worker", "program", "child", "sandbox", "guard")
KILLS = int(os.environ.get("KILLS", "3"))
STAGES = list(STAGE_RULES) if len(TARGETS) < KILLS else list(STAGE_RULES)[:2]
SEED = int(os.environ.get("KILLS_SEED", "1"))
KILLS_OF_A_RUN = 10
WAIT_SECONDS = 120.0  # only a failing test waits so long
QUICK = {
    "POD_WORKER_POLL_SECONDS": "0.2",
    "POD_WORKER_RESCUE_SECONDS": "0.2",
    "POD_WORKER_HEARTBEAT_SECONDS": "1",
    "POD_WORKER_FLUSH_SECONDS": "0",
}


@dataclass
class Found:
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    asked_again: int = 0  # their answers were lost on their way


@pytest.fixture(scope="module")
def uninterrupted(open_folder: Path) -> Path:
    """The folder of a search that nothing kills."""
    folder = _shared_folder(open_folder, "uninterrupted")
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    with SandboxClient(LocalStarter(MODULES, open_python(), {"PYTHONPATH": packages}), floor()) as sandbox:
        for stage in STAGES:
            search_stage(stage, folder, sandbox, NeverStop())
    return folder


@pytest.fixture
def variables(tmp_path: Path, control_plane: str, mongodb_url: str) -> dict[str, str]:
    """Of a worker that knows the pipeline of these tests, as if it were installed."""
    info = tmp_path / "packages" / "killed_search-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: killed-search\nVersion: 1\n")
    value = f"{killed_pipeline.__name__}:PIPELINE"
    (info / "entry_points.txt").write_text(f"[pod_worker.pipelines]\n{NAME} = {value}\n")
    path = os.pathsep.join([str(info.parent), str(ROOT)])
    return {"PYTHONPATH": path, "MONGODB_URL": mongodb_url, "CONTROL_PLANE_URL": control_plane}


class AwayControlPlane(BaseHTTPRequestHandler):
    """Ready, and takes no events: they stay on the pod's disk."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests read the worker's log."""


@pytest.fixture
def control_plane() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), AwayControlPlane)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class KilledRun:
    """One run, its current worker, and what dies next."""

    def __init__(self, db: Db, folder: Path, variables: dict[str, str]) -> None:
        self.db, self.folder = db, folder
        self.id = folder.name
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("POD_WORKER_")},
            **QUICK,
            **variables,
            "POD_WORKER_SPOOL_DIR": str(folder / "spool"),
            "POD_WORKER_WORK_DIR": str(folder / "work"),
            "POD_WORKER_SANDBOX_FLOOR": "default" if is_open(Path(sys.executable)) else ",".join(DEFAULT_FLOOR),
        }
        params = {"folder": str(folder), "stages": STAGES}
        request = RunRequest(id=self.id, pipeline=NAME, params=params, max_attempts=10**6)
        RunQueue(db, SystemClock()).enqueue(request)
        self._start()

    def _start(self) -> None:
        argv = [sys.executable, "-m", "pod_worker", "worker", "--mode", "all"]
        with open(self.folder / "worker.log", "ab") as log:
            self.worker = psutil.Popen(argv, cwd=ROOT, env=self._environment, stdout=log, stderr=log)

    def close(self) -> None:
        self.worker.send_signal(signal.SIGTERM)
        self.worker.wait(60)

    @property
    def search(self) -> Path:
        return self.folder / "search"

    @property
    def is_over(self) -> bool:
        run = self.db.runs.find_one_and_update({"_id": self.id}, {"$unset": {"runAfter": ""}})  # do not wait
        assert run is not None
        return RunStatus.parse(run["status"]) in TERMINAL

    @property
    def status(self) -> str:
        return str((self.db.runs.find_one({"_id": self.id}) or {}).get("status"))

    def state(self) -> SearchState:
        return read_state(self.search) if self.records() else SearchState()

    def records(self) -> int:
        with suppress(FileNotFoundError):
            return (self.search / JOURNAL_NAME).read_bytes().count(b"\n")
        return 0

    def reached(self, point: int) -> bool:
        return self.records() >= point or self.is_over

    def kill(self, target: str) -> bool:
        """False where the run ended before the target was there."""
        while not self.is_over:
            process = self._find(target)
            if process is not None:
                running = self.worker.children(recursive=True)
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    if target == "worker":
                        self._replace_worker(running)
                    return True
            time.sleep(0.01)
        return False

    def _replace_worker(self, running: list[psutil.Process]) -> None:
        """Another worker; the lease of the dead one is over as soon as its guard has ended the run."""
        self.worker.wait(WAIT_SECONDS)
        assert not psutil.wait_procs(running, WAIT_SECONDS)[1], "the guard left a process"
        self.db.runs.update_one({"_id": self.id}, [{"$set": {"leaseExpiresAt": "$$NOW"}}])
        self._start()

    def _find(self, target: str) -> psutil.Process | None:
        if target == "worker":
            return self.worker
        if target == "program":
            return self._program()
        found = [each for each in self.worker.children(recursive=True) if _role(each) == target]
        return found[0] if found else None

    def _program(self) -> psutil.Process | None:
        for path in self.search.glob(f"nodes/*/{PID_FILE}"):
            with suppress(ValueError, OSError, psutil.Error):
                process = psutil.Process(int(path.read_text()))
                if any(parent.pid == self.worker.pid for parent in process.parents()):
                    return process
        return None


def _role(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        words = " ".join(process.cmdline())
        for role, mark in (
            ("sandbox", "pod_worker.sandbox.server"),
            ("guard", "guard.py"),
            ("child", "pod_worker.worker.child"),
        ):
            if mark in words:
                return role
    return ""


def _shared_folder(parent: Path, name: str) -> Path:
    """The child of a worker that is root may have another user."""
    folder = parent / name
    folder.mkdir()
    for each in (folder, folder / "search", folder / "search" / "task"):
        each.mkdir(exist_ok=True)
        each.chmod(0o777)
    return folder


def test_a_run_that_is_killed_everywhere_is_the_uninterrupted_one(
    db: Db, open_folder: Path, uninterrupted: Path, variables: dict[str, str]
) -> None:
    rng, found = random.Random(SEED), Found()
    expected = tree_of(read_state(uninterrupted / "search"))
    points = (uninterrupted / "search" / JOURNAL_NAME).read_bytes().count(b"\n")
    runs = 0
    while found.kills.total() < KILLS:
        runs += 1
        folder = _shared_folder(open_folder, f"killed-{runs}")
        run = KilledRun(db, folder, variables)
        try:
            kill_often(run, rng, points, found)
        except AssertionError as error:
            error.add_note((folder / "worker.log").read_text()[-5_000:])
            raise
        finally:
            run.close()
        assert tree_of(read_state(run.search)) == expected, f"run {runs}"
        count_payments(run, uninterrupted, found)
    print(
        json.dumps(
            {"seed": SEED, "runs": runs, "nodes": len(expected), **found.kills, "asked_again": found.asked_again}
        )
    )


def kill_often(run: KilledRun, rng: random.Random, points: int, found: Found) -> None:
    """At random records of the journal, each kind of process in turn."""
    count = min(KILLS_OF_A_RUN, KILLS - found.kills.total())
    targets = [TARGETS[(found.kills.total() + number) % len(TARGETS)] for number in range(count)]
    finished: dict[str, object] = {}
    for point, target in zip(sorted(rng.sample(range(points - 3), count)), targets, strict=True):
        wait_until(partial(run.reached, point))
        if run.kill(target):
            found.kills[target] += 1
        now = finished_of(run.state())
        assert finished.items() <= now.items(), f"a finished node was lost when the {target} was killed"
        finished = now
    wait_until(lambda: run.is_over)
    assert run.status == "COMPLETED"


def count_payments(run: KilledRun, uninterrupted: Path, found: Found) -> None:
    """No answer that arrived is paid again; what a kill lost on its way is, and the cap counts both."""
    rows = list(read_rows(run.folder / "llm" / LEDGER_FILE))
    answered = Counter(row.key for row in rows if isinstance(row, CallRow) and row.status is CallStatus.ANSWERED)
    assert max(answered.values()) == 1
    bill, whole = ((folder / PAID_FILE).read_text().splitlines() for folder in (run.folder, uninterrupted))
    assert len(set(bill)) == len(whole), "the same questions; the path in a traceback differs"
    found.asked_again += len(bill) - len(set(bill))
    total = read_ledger(run.folder / "llm" / LEDGER_FILE).total
    assert total.calls >= len(bill)
    assert total.micro_usd <= CAP_USD * 1e6


def finished_of(state: SearchState) -> dict[str, object]:
    return {node.id: (node.outcome, node.search_score, node.code) for node in state.nodes.values() if node.outcome}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the run does not go on"
        time.sleep(0.02)
