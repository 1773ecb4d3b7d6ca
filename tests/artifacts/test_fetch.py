"""Downloading an artifact: whole, verified, resumed, and never half there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import requests

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.core.stage import Artifact, ArtifactKind

MIB = 1024 * 1024
SIZE = 3 * MIB + 5


@pytest.fixture
def made(publisher: Any, file: Any) -> Artifact:
    found: Artifact = publisher().publish(file(SIZE), ArtifactKind.CHECKPOINT)
    return found


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The Range header of every download."""
    seen: list[str | None] = []
    real = requests.Session.get

    def noted(self: requests.Session, url: str, **named: Any) -> requests.Response:
        seen.append(named["headers"].get("Range"))
        return real(self, url, **named)

    monkeypatch.setattr(requests.Session, "get", noted)
    return seen


def _partial(target: Path, sha256: str) -> Path:
    return target.with_name(f".{target.name}.{sha256[:16]}.partial")


@pytest.mark.parametrize("with_hash", [True, False])
def test_what_was_published_comes_back(
    with_hash: bool, made: Artifact, publisher: Any, file: Any, tmp_path: Path
) -> None:
    target = tmp_path / "deep" / "back.bin"
    found = publisher().fetch(made.key, target, made.sha256 if with_hash else None)
    assert found == target
    assert target.read_bytes() == file(SIZE).read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["back.bin"]


def test_an_empty_artifact_comes_back(publisher: Any, file: Any, tmp_path: Path) -> None:
    made = publisher().publish(file(0), ArtifactKind.LOG)
    assert publisher().fetch(made.key, tmp_path / "back", made.sha256).read_bytes() == b""


def test_other_bytes_than_promised_never_reach_the_target(made: Artifact, publisher: Any, tmp_path: Path) -> None:
    target = tmp_path / "back"
    target.write_bytes(b"what was there before")
    with pytest.raises(RunError, match="expected 0000") as raised:
        publisher().fetch(made.key, target, "0" * 64)
    assert raised.value.code is FailureCode.STORAGE
    assert target.read_bytes() == b"what was there before"
    assert not list(tmp_path.glob(".back*"))


def test_what_is_registered_is_verified_even_when_nobody_gives_a_hash(
    made: Artifact, publisher: Any, plane: Any, file: Any, tmp_path: Path
) -> None:
    plane.store.put(made.key, file(SIZE, "other.bin", seed=9))  # replaced with the store's own keys
    with pytest.raises(RunError, match="the stored object is not it"):
        publisher().fetch(made.key, tmp_path / "back")


@pytest.mark.parametrize("with_hash", [True, False])
def test_a_store_that_sends_more_than_was_registered_is_cut_off(
    with_hash: bool, made: Artifact, publisher: Any, plane: Any, file: Any, line: Any, s3: Any, tmp_path: Path
) -> None:
    """A hostile or damaged store could fill the disk of the pod."""
    plane.store._signer = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint=f"http://{line.endpoint}"
    )._signer
    plane.store.put(made.key, file(8 * SIZE, "longer.bin"))
    with pytest.raises(RunError, match=f"more than the {SIZE} bytes") as raised:
        publisher().fetch(made.key, tmp_path / "back", made.sha256 if with_hash else None)
    assert raised.value.code is FailureCode.STORAGE
    assert line.bytes["down"] < 7 * SIZE
    assert not list(tmp_path.glob("*back*"))


def test_a_crashed_download_goes_on_where_it_stopped(
    made: Artifact, publisher: Any, file: Any, tmp_path: Path, ranges: list[str | None]
) -> None:
    target = tmp_path / "back"
    content = file(SIZE).read_bytes()
    _partial(target, made.sha256).write_bytes(content[:MIB])
    publisher().fetch(made.key, target, made.sha256)
    assert ranges == [f"bytes={MIB}-"]
    assert target.read_bytes() == content


@pytest.mark.parametrize("leftover", [b"wrong" * 1000, b"w" * SIZE, b"too long" * SIZE])
def test_a_wrong_partial_file_is_thrown_away(
    leftover: bytes, made: Artifact, publisher: Any, tmp_path: Path
) -> None:
    target = tmp_path / "back"
    _partial(target, made.sha256).write_bytes(leftover)
    publisher().fetch(made.key, target, made.sha256)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == made.sha256


def test_a_broken_line_is_continued(
    made: Artifact,
    publisher: Any,
    planes: Any,
    line: Any,
    s3: Any,
    tmp_path: Path,
    ranges: list[str | None],
) -> None:
    behind = planes()
    behind.store._signer = ObjectStore(
        s3.endpoint, s3.access_key, s3.secret_key, s3.bucket, public_endpoint=f"http://{line.endpoint}"
    )._signer
    line.break_after = [("down", MIB), ("down", MIB)]
    target = tmp_path / "back"
    publisher(control_plane_url=behind.url).fetch(made.key, target, made.sha256)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == made.sha256
    assert len(ranges) == 3
    assert ranges[0] is None
    assert ranges[1] is not None
    assert line.bytes["down"] < SIZE + MIB


def test_a_drain_keeps_what_has_arrived(made: Artifact, publisher: Any, stop: Any, tmp_path: Path) -> None:
    target = tmp_path / "back"

    def look() -> None:
        partial = _partial(target, made.sha256)
        if partial.exists() and partial.stat().st_size >= MIB:
            stop.error = DrainRequested()

    stop.on_check = look
    with pytest.raises(DrainRequested):
        publisher().fetch(made.key, target, made.sha256)
    assert _partial(target, made.sha256).stat().st_size >= MIB
    assert not target.exists()


@pytest.mark.parametrize(
    "key", ["runs/run1/2/nothing.bin", "runs/other/1/x", "../../etc/passwd", "runs/run1/../other/x"]
)
def test_what_is_not_there_or_not_ours_is_refused(key: str, publisher: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError) as raised:
        publisher().fetch(key, tmp_path / "back")
    assert raised.value.code is FailureCode.INVALID_INPUT  # asking again would not help
    assert not (tmp_path / "back").exists()
