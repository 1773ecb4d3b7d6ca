"""Code of a run can write any line into its stream: ingest must take lines of the stream's own attempt only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.attempt_token import AttemptClaim, mint
from pod_worker.core.payload import GpuShortage, RunLog, RunStarted
from pod_worker.outbox import PodEmitter, RunEmitter, Spool, UlidGenerator, adopt_orphans
from pod_worker.outbox.shipper import Shipper
from pod_worker.outbox.spool import pod_stream, run_stream, stream_owner
from tests.control.conftest import TOKEN
from tests.outbox.ingest_server import SOURCE, IngestServer

Db = Database[dict[str, Any]]
LONG = "läuft-" * 30  # its name on disk is a hash
CLOCK = SystemClock()


def emitter_of(spool: Spool, run_id: str = "r1", attempt: int = 1) -> RunEmitter:
    return RunEmitter(spool, SOURCE, run_id, attempt, CLOCK, UlidGenerator(CLOCK))


def forge(spool: Spool, stream: str, **changes: object) -> str:
    """Append a line as code of the run could: a copy of the stream's last one with `changes`; its id."""
    folder = spool.directory / stream
    path = max(path for path in folder.glob("*.ndjson") if path.stat().st_size)
    line = json.loads(path.read_bytes().splitlines()[-1])
    line |= {"id": f"forged-{len(path.read_bytes())}", "seq": line.get("seq", 0) + 1, **changes}
    with open(path, "ab") as file:
        file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return str(line["id"])


def foreign(run_id: str, attempt: int) -> dict[str, object]:
    return {
        "type": "ai.run.log",
        "subject": f"run/{run_id}",
        "attempt": attempt,
        "data": {"run_id": run_id, "level": "info", "message": "forged"},
    }


@given(st.text(max_size=300), st.integers(1, 10**8))
def test_the_name_of_a_stream_gives_its_owner(run_id: str, attempt: int) -> None:
    line = json.dumps({"subject": f"run/{run_id}"}).encode()
    assert stream_owner(run_stream(run_id, attempt), [b"{", line]) == AttemptClaim(run_id, attempt)


def test_lines_do_not_decide_whose_a_stream_is() -> None:
    other = [json.dumps({"subject": "run/other"}).encode()]
    assert stream_owner(run_stream("r1", 2), other) == AttemptClaim("r1", 2)
    assert stream_owner(run_stream(LONG, 1), other) != AttemptClaim("other", 1)
    assert stream_owner(pod_stream("p1"), other) is None


@pytest.mark.parametrize("name", ["run-", "run-x", "run-x-", "run-x-0", "run--1", "run-x-²", "run-x-1e3"])
def test_a_folder_that_no_worker_names_speaks_for_no_attempt(name: str) -> None:
    assert stream_owner(name, []) == AttemptClaim(name, 1)


def test_a_runs_stream_goes_under_its_attempts_token_and_the_pods_under_the_workers(
    ingest: IngestServer, spool: Spool, ship: Callable[..., Shipper]
) -> None:
    wanted = set()
    for run_id, attempt in (("r1", 1), ("r1", 2), ("a/b", 1), (LONG, 3)):
        emitter_of(spool, run_id, attempt).emit(RunStarted(pod_id="p1"))
        wanted.add(f"Bearer {mint('secret-token', run_id, attempt)}")
    PodEmitter(spool, SOURCE, "p1", CLOCK, UlidGenerator(CLOCK)).emit(
        GpuShortage(required_gpus=1, available_gpus=0)
    )
    assert ship().flush(20)
    assert {headers["Authorization"] for headers in ingest.headers} == wanted | {"Bearer secret-token"}


@pytest.fixture
def control_url(mongodb_url: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.control.serve", mongodb_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.terminate()


def deliver(url: str, *spools: Spool) -> None:
    shipper = Shipper(spools, url, TOKEN, batch_seconds=0.02)
    shipper.start()
    assert shipper.flush(30), shipper.stats()
    shipper.stop()


def dead_letters(spool: Spool) -> dict[str, str]:
    letters = [json.loads(line) for line in spool.dead_letter.read_bytes().splitlines()]
    return {json.loads(letter["event"])["id"]: letter["code"] for letter in letters}


@pytest.mark.parametrize("run_id", ["r1", LONG])
def test_a_forged_line_is_refused_also_after_a_crash(
    db: Db, tmp_path: Path, control_url: str, run_id: str
) -> None:
    for each in (run_id, "victim"):
        db["runs"].insert_one({"_id": each, "status": "RUNNING", "attempt": 1})
    dead = Spool.open(tmp_path / "spools", "dead")
    good = [emitter_of(dead, run_id).emit(RunStarted(pod_id="p1"))]
    stream = run_stream(run_id, 1)
    forged = {forge(dead, stream, **foreign("victim", 1)), forge(dead, stream, **foreign(run_id, 7))}
    good.append(emitter_of(dead, run_id).emit(RunLog(message="mine")))
    pod_event = PodEmitter(dead, SOURCE, "p1", CLOCK, UlidGenerator(CLOCK)).emit(
        GpuShortage(required_gpus=1, available_gpus=0)
    )
    dead.close()
    (adopted,) = adopt_orphans(tmp_path / "spools")
    deliver(control_url, adopted)
    assert {event["_id"] for event in db["events"].find()} == {*good, pod_event}
    assert dead_letters(adopted) == dict.fromkeys(forged, "forbidden")
    adopted.close()


def test_losses_of_a_stream_are_not_reported_to_the_run_that_its_lines_name(tmp_path: Path) -> None:
    """The supervisor writes such a report, so a forged line would reach another run's stream through it."""
    spool = Spool.open(tmp_path, "w", max_bytes=64 * 1024)
    emitter = emitter_of(spool)
    emitter.emit(RunLog(message="x"))
    forge(spool, run_stream("r1", 1), **foreign("victim", 1))
    forged = spool.directory / run_stream("r1", 1)
    first = min(forged.glob("samples.*.ndjson"))
    first.write_bytes(first.read_bytes().splitlines(keepends=True)[-1])
    for number in range(600):
        emitter.emit(RunLog(message=f"{number} " + "x" * 400))
    assert not (spool.directory / run_stream("victim", 1)).exists()
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_an_adopted_stream_is_the_workers_again(tmp_path: Path) -> None:
    """The next run works under the same user as the one whose worker died."""
    dead = Spool.open(tmp_path, "dead")
    emitter = emitter_of(dead)
    emitter.emit(RunStarted(pod_id="p1"))
    emitter.hand_over(61_999, 61_999)
    dead.close()
    (adopted,) = adopt_orphans(tmp_path)
    folder = adopted.directory / run_stream("r1", 1)
    assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {0}
    adopted.close()


def test_without_a_key_nothing_is_shown(ingest: IngestServer, spool: Spool) -> None:
    emitter_of(spool).emit(RunStarted(pod_id="p1"))
    shipper = Shipper([spool], ingest.url, None, batch_seconds=0.02)
    shipper.start()
    assert shipper.flush(20)
    shipper.stop()
    assert "Authorization" not in ingest.headers[0]
