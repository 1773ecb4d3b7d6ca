"""Publishing against a real control plane, MongoDB and S3 server."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pod_worker.artifacts import transfer
from pod_worker.artifacts.api_client import RetryingCaller
from pod_worker.artifacts.publisher import LeaseLostError, RetryBudget
from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ArtifactKind

MIB = 1024 * 1024
DATA = ArtifactKind.DATA


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(start, length) of every request that carried bytes to the store."""
    seen: list[tuple[int, int]] = []
    real = transfer.put

    def noted(session: Any, url: str, file: Any, start: int, length: int, *rest: Any) -> str:
        seen.append((start, length))
        return real(session, url, file, start, length, *rest)

    monkeypatch.setattr(transfer, "put", noted)
    return seen


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 17])
def test_every_size_arrives_whole_and_is_registered(
    size: int, publisher: Any, plane: Any, file: Any, events: Any
) -> None:
    path = file(size, "résult data.bin")
    made = publisher().publish(path, DATA, role="final")
    content = path.read_bytes()
    assert made.key == "runs/run1/2/résult data.bin"
    assert (made.bytes, made.sha256, made.role) == (size, hashlib.sha256(content).hexdigest(), "final")
    assert plane.store.sha256(made.key).sha256 == made.sha256
    row = plane.database["artifacts"].find_one()
    assert row["_id"] == f"run1:data:{made.sha256}"
    assert (row["runId"], row["attempt"], row["key"], row["role"]) == ("run1", 2, made.key, "final")
    assert row["verifiedAt"] is not None
    assert events.types == ["ai.artifact.detected", "ai.artifact.registered"]
    registered = events.payloads[1]
    assert (registered.key, registered.bytes, registered.sha256) == (made.key, made.bytes, made.sha256)


def test_the_same_bytes_again_upload_nothing(
    publisher: Any, plane: Any, file: Any, events: Any, puts: list[Any]
) -> None:
    path = file(10)
    first = publisher().publish(path, DATA)
    asked = len(plane.requests)
    assert publisher().publish(path, DATA) == first  # a new process: only the ledger knows
    assert (len(puts), len(plane.requests)) == (1, asked)
    assert events.types == ["ai.artifact.detected", "ai.artifact.registered"]


def test_a_later_attempt_asks_and_uploads_nothing(
    publisher: Any, plane: Any, fence: Fence, file: Any, puts: list[Any]
) -> None:
    path = file(10)
    first = publisher().publish(path, DATA)
    plane.database["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 3, "leaseToken": "token3"}})
    later = publisher(writer=Fence("run1", 3, "token3"))
    assert later.publish(path, DATA) == first
    assert len(puts) == 1
    plane.database["artifacts"].delete_many({})  # pruned: the ledger alone does not decide
    plane.store.delete(first.key)
    again = publisher(writer=Fence("run1", 4, "token4"))
    plane.database["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 4, "leaseToken": "token4"}})
    assert again.publish(path, DATA).key == "runs/run1/4/result.bin"
    assert len(puts) == 2


def test_a_role_given_later_is_recorded_without_an_upload(
    publisher: Any, plane: Any, file: Any, puts: list[Any]
) -> None:
    path = file(10)
    publisher().publish(path, DATA)
    assert publisher().publish(path, DATA, role="final").role == "final"
    assert plane.database["artifacts"].find_one()["role"] == "final"
    assert publisher().publish(path, DATA).role == "final"
    assert len(puts) == 1


def test_other_bytes_under_one_name_never_overwrite(publisher: Any, plane: Any, file: Any) -> None:
    one = publisher().publish(file(10, "a.bin", seed=1), DATA, name="last.ckpt")
    two = publisher().publish(file(10, "b.bin", seed=2), DATA, name="last.ckpt")
    assert one.key == "runs/run1/2/last.ckpt"
    assert two.key == f"runs/run1/2/last.{two.sha256[:12]}.ckpt"
    assert plane.store.sha256(one.key).sha256 == one.sha256
    assert plane.store.sha256(two.key).sha256 == two.sha256


def test_a_name_may_have_folders_and_odd_characters(publisher: Any, plane: Any, file: Any) -> None:
    made = publisher().publish(file(10), ArtifactKind.PLOT, name="plots/$step 1 & ünï.png")
    assert made.content_type == "image/png"
    assert plane.store.sha256(made.key).sha256 == made.sha256


@pytest.mark.parametrize("name", ["../../etc/passwd", "/abs", "a/../b", "nul\0", "x" * 600, "\udcff"])
def test_a_name_that_leaves_its_folder_is_refused(name: str, publisher: Any, plane: Any, file: Any) -> None:
    with pytest.raises(RunError) as raised:
        publisher().publish(file(10), DATA, name=name)
    assert raised.value.code is FailureCode.USER_ERROR
    assert plane.requests == []


def test_a_file_where_a_folder_is_fails_at_once_and_names_the_other(
    publisher: Any, plane: Any, file: Any, events: Any
) -> None:
    publisher().publish(file(10, "model"), DATA, "model")
    plane.requests.clear()
    with pytest.raises(RunError, match=r"model/config.json.*'runs/run1/2/model'.*another filename") as raised:
        publisher().publish(file(10, "config", seed=2), DATA, "model/config.json")
    assert raised.value.code is FailureCode.USER_ERROR
    assert len(plane.requests) == 1, "refused before anything is uploaded, and not retried"


def test_a_file_that_is_not_there_is_named(publisher: Any, tmp_path: Path, events: Any) -> None:
    with pytest.raises(RunError, match=r"nothing\.bin: No such file"):
        publisher().publish(tmp_path / "nothing.bin", DATA)
    assert events.types == ["ai.artifact.failed"]


def test_only_plain_files_are_published(publisher: Any, plane: Any, file: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file(10, "secret"))
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("link", "symbolic link"), ("pipe", "not a plain file"), ("", "not a plain file")):
        with pytest.raises(RunError, match=reason):
            publisher().publish(tmp_path / name, DATA)
    assert plane.requests == []


def test_an_attempt_that_lost_its_run_stops_and_says_nothing(
    publisher: Any, plane: Any, file: Any, events: Any
) -> None:
    plane.database["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 3, "leaseToken": "other"}})
    with pytest.raises(LeaseLostError):
        publisher().publish(file(10), DATA)
    assert events.types == ["ai.artifact.detected"]
    assert plane.database["artifacts"].count_documents({}) == 0
    assert plane.store.list("") == []


def test_a_run_lost_during_the_upload_registers_nothing(
    publisher: Any, plane: Any, file: Any, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transfer.put

    def lose(*arguments: Any) -> str:
        plane.database["runs"].update_one({"_id": "run1"}, {"$set": {"attempt": 3, "leaseToken": "other"}})
        return real(*arguments)

    monkeypatch.setattr(transfer, "put", lose)
    with pytest.raises(LeaseLostError):
        publisher().publish(file(10), DATA)
    assert plane.database["artifacts"].count_documents({}) == 0
    assert events.types == ["ai.artifact.detected"]


def test_an_unknown_run_and_a_wrong_token_are_named(publisher: Any, file: Any, events: Any) -> None:
    with pytest.raises(RunError, match="no run 'run9'") as raised:
        publisher(writer=Fence("run9", 1, "t")).publish(file(10), DATA)
    assert raised.value.code is FailureCode.STORAGE
    with pytest.raises(RunError, match="CONTROL_PLANE_TOKEN") as raised:
        publisher(token="secret-guess").publish(file(10), DATA)
    assert "secret-guess" not in str(raised.value)
    assert events.types[-1] == "ai.artifact.failed"


def test_an_address_that_is_no_control_plane_is_named(publisher: Any, file: Any, s3: Any) -> None:
    with pytest.raises(RunError, match="CONTROL_PLANE_URL"):
        publisher(control_plane_url=s3.url).publish(file(10), DATA)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite_quietly(path: Path) -> None:
    before = path.stat()
    with path.open("rb+") as file:
        file.write(b"XXXXXXXX")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _truncate(path: Path) -> None:
    os.truncate(path, 5)


@pytest.mark.parametrize("change", [_append, _rewrite_quietly, _truncate])
@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_a_file_that_changes_under_way_is_refused(
    change: Callable[[Path], None],
    size: int,
    publisher: Any,
    plane: Any,
    file: Any,
    events: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, real, changes = file(size), transfer.put, [change]

    def meddle(*arguments: Any) -> str:
        while changes:
            changes.pop()(path)
        return real(*arguments)

    monkeypatch.setattr(transfer, "put", meddle)
    with pytest.raises(RunError, match="changed while it was being uploaded") as raised:
        publisher().publish(path, DATA)
    assert raised.value.code is FailureCode.USER_ERROR
    assert plane.database["artifacts"].count_documents({}) == 0
    assert events.types[-1] == "ai.artifact.failed"


def _tamper(monkeypatch: pytest.MonkeyPatch, times: int, tmp_path: Path) -> None:
    """The first `times` uploads arrive as other bytes than ours."""
    real, left = transfer.put, [times]

    def tampered(session: Any, url: str, file: Any, start: int, length: int, *rest: Any) -> str:
        if left[0] == 0:
            return real(session, url, file, start, length, *rest)
        left[0] -= 1
        other = tmp_path / "tampered"
        other.write_bytes(b"?" * length)
        with other.open("rb") as wrong:
            return real(session, url, wrong, 0, length, *rest)

    monkeypatch.setattr(transfer, "put", tampered)


def test_other_bytes_in_the_store_are_uploaded_once_more(
    publisher: Any, plane: Any, file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tamper(monkeypatch, 1, tmp_path)
    made = publisher().publish(file(1000), DATA)
    assert plane.store.sha256(made.key).sha256 == made.sha256
    assert len(plane.asked("/finalize")) == 2


def test_a_store_that_keeps_garbling_is_a_storage_failure(
    publisher: Any, plane: Any, file: Any, tmp_path: Path, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tamper(monkeypatch, 99, tmp_path)
    with pytest.raises(RunError, match="2 times without success") as raised:
        publisher().publish(file(1000), DATA)
    assert raised.value.code is FailureCode.STORAGE
    assert plane.store.list("") == []  # what was wrong is removed
    assert plane.database["artifacts"].count_documents({}) == 0
    assert events.types == ["ai.artifact.detected", "ai.artifact.failed"]


def test_a_long_verification_is_waited_for(
    planes: Any, publisher: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = planes(part_bytes=MIB, wait_seconds=0.0)
    made = publisher(control_plane_url=slow.url).publish(file(MIB), DATA)
    assert slow.store.sha256(made.key).sha256 == made.sha256
    assert len(slow.asked("/finalize")) >= 2


def test_a_cancel_ends_an_upload_between_blocks(
    publisher: Any, plane: Any, file: Any, stop: Any, events: Any, puts: list[Any]
) -> None:
    stop.error, stop.after = CancelRequested(), 50  # in the middle of the first part
    with pytest.raises(CancelRequested):
        publisher().publish(file(4 * MIB), DATA)
    assert len(puts) == 1
    assert "ai.artifact.registered" not in events.types
    assert "ai.artifact.failed" not in events.types


def test_a_cancel_ends_the_waiting_for_a_store_that_is_away(publisher: Any, file: Any, stop: Any) -> None:
    stop.error, stop.after = CancelRequested(), 5
    with pytest.raises(CancelRequested):
        publisher(control_plane_url="http://127.0.0.1:1", budget=RetryBudget(3600)).publish(file(10), DATA)


def test_a_checkpoint_waits_less_long_than_a_result(
    publisher: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pod_worker.artifacts.publisher._CHECKPOINT_SECONDS", 0.2)
    away = publisher(control_plane_url="http://127.0.0.1:1", budget=RetryBudget(3600, 0.05, 0.1))
    with pytest.raises(RunError, match="gave up waiting"):
        away.publish(file(10), ArtifactKind.CHECKPOINT)


def test_a_store_that_stays_away_is_a_storage_failure(publisher: Any, file: Any, events: Any) -> None:
    with pytest.raises(RunError, match=r"gave up waiting: .*127\.0\.0\.1:1") as raised:
        publisher(control_plane_url="http://127.0.0.1:1", budget=RetryBudget(0.3, 0.05, 0.1)).publish(
            file(10), DATA
        )
    assert raised.value.code is FailureCode.STORAGE
    assert set(events.types) == {"ai.artifact.detected", "ai.run.log", "ai.artifact.failed"}


def test_the_upload_of_a_result_does_not_hold_up_a_checkpoint(
    publisher: Any, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain leaves seconds for the last snapshot, and an output may need minutes."""
    started, release = threading.Event(), threading.Event()
    real = transfer.put

    def slow(session: Any, url: str, opened: Any, start: int, length: int, *rest: Any) -> str:
        if length == 20:
            started.set()
            assert release.wait(60)
        return real(session, url, opened, start, length, *rest)

    monkeypatch.setattr(transfer, "put", slow)
    ours = publisher()
    result = file(20, "result")
    with ThreadPoolExecutor(2) as pool:
        uploading = pool.submit(ours.publish, result, DATA)
        assert started.wait(60)
        try:
            checkpoint = pool.submit(ours.publish, file(10, "checkpoint"), ArtifactKind.CHECKPOINT)
            assert checkpoint.result(60).bytes == 10
            assert not uploading.done()
        finally:
            release.set()
        assert uploading.result(60).bytes == 20


def test_a_limit_of_time_is_that_of_one_thread(events: Any, stop: Any) -> None:
    """A result is tried for long, also while a checkpoint is tried for a short time."""
    caller = RetryingCaller(RetryBudget(5.0, 0.01, 0.02), random.Random(1), stop, lambda _: None)
    tries = 0

    def third_time() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise transfer.TransientError("away")
        return "done"

    def away() -> None:
        raise transfer.TransientError("away")

    with caller.with_timeout(0.0), ThreadPoolExecutor(1) as pool:
        assert pool.submit(caller, third_time).result(60) == "done"
        with pytest.raises(transfer.TransientError):
            caller(away)
