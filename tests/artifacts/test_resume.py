"""A crash at any point neither loses an upload nor doubles one; a killed process's parts are used again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts import transfer
from pod_worker.artifacts.api_client import ArtifactApiClient
from pod_worker.artifacts.ledger import UploadLedger, UploadState
from pod_worker.core.failure import DrainRequested
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ArtifactKind

KIB = 1024
MIB = 1024 * KIB
DATA = ArtifactKind.DATA


class Crash(BaseException):
    """The process ends here."""


class Steps:
    """Counts the steps of a publication and crashes before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, events: Any) -> None:
        self.crash_at = 0
        self.taken = 0
        self.put_bytes = 0
        for owner, name in (
            (UploadLedger, "put"),
            (UploadLedger, "part"),
            (ArtifactApiClient, "_post"),
            (type(events), "emit"),
            (transfer, "put"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), name))

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            self._tick()
            result = real(*arguments, **named)
            if real is _real_put:
                self.put_bytes += arguments[4]
            self._tick()
            return result

        return step

    def _tick(self) -> None:
        self.taken += 1
        if self.taken == self.crash_at:
            raise Crash


_real_put = transfer.put


@pytest.mark.parametrize(("size", "most_bytes"), [(1000, 2000), (300 * KIB, 400 * KIB)])
def test_a_crash_at_every_step_ends_in_one_artifact(
    size: int,
    most_bytes: int,
    planes: Any,
    publisher: Any,
    fence: Fence,
    file: Any,
    events: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane = planes(part_bytes=100 * KIB)
    path = file(size)
    steps = Steps(monkeypatch, events)
    crashes = 0
    while True:
        ledger = tmp_path / f"ledger{crashes}"
        events.payloads.clear()
        plane.database["artifacts"].delete_many({})
        for item in plane.store.list(""):
            plane.store.delete(item.key)
        crashes += 1
        steps.taken, steps.put_bytes, steps.crash_at = 0, 0, crashes

        def publish(ledger: Path = ledger) -> Any:
            return publisher(control_plane_url=plane.url, ledger=UploadLedger(ledger)).publish(path, DATA)

        try:
            publish()
            break
        except Crash:
            pass
        steps.crash_at = 0
        made = publish()
        assert [row["_id"] for row in plane.database["artifacts"].find()] == [f"run1:data:{made.sha256}"]
        assert [(item.key, item.bytes) for item in plane.store.list("")] == [(made.key, size)]
        assert plane.store.sha256(made.key).sha256 == made.sha256
        assert "ai.artifact.registered" in events.types
        assert steps.put_bytes <= most_bytes
        assert publish() == made
    assert crashes > 15


def test_a_drained_upload_goes_on_in_the_next_attempt_on_this_pod(
    publisher: Any, plane: Any, stop: Any, file: Any, tmp_path: Path
) -> None:
    path = file(6 * MIB)
    ledger = tmp_path / "work" / "artifacts.jsonl"
    _drain_after(4, publisher(), path, ledger, stop)
    plane.database["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 3, "leaseToken": "token3"}})
    seen = _noted_starts(plane)
    made = publisher(writer=Fence("run1", 3, "token3")).publish(path, DATA)
    assert made.key == "runs/run1/2/result.bin"  # begun by attempt 2
    assert seen() == [{1, 2, 3, 4}]
    assert plane.store.sha256(made.key).sha256 == made.sha256
    assert plane.database["artifacts"].find_one()["attempt"] == 3


def _drain_after(parts: int, publisher: Any, path: Path, ledger: Path, stop: Any) -> None:
    """Publish, and be asked to stop once so many parts are in the ledger."""

    def look() -> None:
        if ledger.exists() and ledger.read_text().count('"part":') >= parts:
            stop.error = DrainRequested()

    stop.on_check = look
    with pytest.raises(DrainRequested):
        publisher.publish(path, DATA)
    stop.on_check, stop.error = (lambda: None), None


def _noted_starts(plane: Any) -> Callable[[], list[set[int]]]:
    """The parts that the store still had, at each request to resume."""
    real, found = plane.store.list_parts, []

    def noted(*arguments: Any, **named: Any) -> Any:
        parts = real(*arguments, **named)
        found.append({part.number for part in parts})
        return parts

    plane.store.list_parts = noted
    return lambda: found


UPLOADER = """
import json, os, random, sys, time
from pathlib import Path
from pod_worker.artifacts.ledger import UploadLedger
from pod_worker.artifacts.publisher import Publisher
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ArtifactKind

given = json.loads(sys.argv[1])

class Emit:
    def emit(self, payload):
        return "id"

class Stop:
    def check(self):
        ledger = Path(given["ledger"])
        if ledger.exists() and ledger.read_text().count('"part":') >= given["hang_after"]:
            print("hanging", flush=True)
            time.sleep(600)
    def is_set(self):
        return False

publisher = Publisher(given["url"], given["token"], Fence("run1", 2, "token2"), UploadLedger(Path(given["ledger"])),
                      Emit(), Stop(), random.Random(0))
publisher.publish(Path(given["path"]), ArtifactKind.DATA)
"""


def test_a_killed_uploader_s_parts_are_used_again(
    plane: Any, publisher: Any, file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(5 * MIB)
    ledger = tmp_path / "work" / "artifacts.jsonl"
    given = {"url": plane.url, "token": "control-plane-token", "ledger": str(ledger), "path": str(path)}
    argv = [sys.executable, "-c", UPLOADER, json.dumps(given | {"hang_after": 3})]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"hanging\n"
        finally:
            process.send_signal(signal.SIGKILL)
    (entry,) = UploadLedger(ledger).entries()
    assert (entry.state, len(entry.parts)) == (UploadState.UPLOADING, 3)
    starts = _noted_puts(monkeypatch)
    made = publisher().publish(path, DATA)
    assert starts == [3 * MIB, 4 * MIB]
    assert plane.store.sha256(made.key).sha256 == made.sha256
    assert plane.database["artifacts"].count_documents({}) == 1


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_what_is_uploaded_is_only_finalized_after_a_crash(
    size: int, publisher: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(size)
    with monkeypatch.context() as broken:
        broken.setattr(ArtifactApiClient, "finalize", _crash)
        with pytest.raises(Crash):
            publisher().publish(path, DATA)
    monkeypatch.setattr(transfer, "put", _crash)
    assert publisher().publish(path, DATA).bytes == size


def _crash(*arguments: Any) -> Any:
    raise Crash


def test_a_part_that_is_not_the_one_in_the_ledger_is_sent_again(
    publisher: Any, plane: Any, stop: Any, file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(3 * MIB)
    ledger = tmp_path / "work" / "artifacts.jsonl"
    _drain_after(2, publisher(), path, ledger, stop)
    book = UploadLedger(ledger)
    book.part(book.entries()[0], 2, "0" * 32)
    starts = _noted_puts(monkeypatch)
    made = publisher().publish(path, DATA)
    assert starts == [MIB, 2 * MIB]
    assert plane.store.sha256(made.key).sha256 == made.sha256


def _noted_puts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each upload of bytes begins."""
    starts: list[int] = []

    def noted(session: Any, url: str, file: Any, start: int, length: int, *rest: Any) -> str:
        starts.append(start)
        return _real_put(session, url, file, start, length, *rest)

    monkeypatch.setattr(transfer, "put", noted)
    return starts


def test_parts_that_the_store_has_forgotten_are_sent_again(
    publisher: Any, plane: Any, stop: Any, file: Any, tmp_path: Path
) -> None:
    path = file(3 * MIB)
    ledger = tmp_path / "work" / "artifacts.jsonl"
    _drain_after(2, publisher(), path, ledger, stop)
    (entry,) = UploadLedger(ledger).entries()
    plane.store.abort(entry.key, entry.upload_id)
    made = publisher().publish(path, DATA)
    assert plane.store.sha256(made.key).sha256 == made.sha256


def test_a_changed_part_size_starts_the_upload_again(
    publisher: Any, plane: Any, planes: Any, stop: Any, file: Any, tmp_path: Path
) -> None:
    path = file(3 * MIB)
    ledger = tmp_path / "work" / "artifacts.jsonl"
    _drain_after(1, publisher(), path, ledger, stop)
    other = planes(part_bytes=MIB // 2)
    made = publisher(control_plane_url=other.url).publish(path, DATA)
    assert plane.store.sha256(made.key).sha256 == made.sha256
    assert len(other.asked("/abort")) == len(other.asked("/finalize")) == 1
