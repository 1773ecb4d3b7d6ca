"""This checkout as an archive, for pods whose image does not contain pod_worker."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pod_worker

MEMBERS = (
    "pyproject.toml", "README.md", "LICENSE", "manage_runs.py", "pod_worker", "requirements", "scripts",
)  # fmt: skip


def code_archive(root: Path | None = None) -> bytes | None:
    """A .tar.gz with the same bytes for the same files.

    None where there is no project folder (a wheel).

    Sources only: no `.env`, no data and no version control are in it.
    """
    root = root or Path(pod_worker.__file__).resolve().parent.parent
    if not (root / "pyproject.toml").is_file() or not (root / "scripts" / "init_runpod.sh").is_file():
        return None
    packed = io.BytesIO()
    # Without times, the marker of the finished step stays valid on the pod while the files do not change.
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for member in MEMBERS:
            if (root / member).exists():
                archive.add(root / member, member, filter=_plain)
    return packed.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(member.name).name
    if name == "__pycache__" or name.startswith(".") or not (member.isfile() or member.isdir()):
        return None
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
