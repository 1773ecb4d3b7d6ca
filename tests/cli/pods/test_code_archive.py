"""The checkout that is copied to a pod: complete, the same bytes each time, and without secrets."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from pod_worker.cli.pods.code_archive import code_archive


def make_project(root: Path) -> Path:
    for name in (
        "pyproject.toml",
        "pod_worker/a.py",
        "pod_worker/__pycache__/a.pyc",
        "scripts/init_runpod.sh",
        ".env",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "pod_worker" / ".env").write_text("SECRET=1")
    (root / "pod_worker" / "link").symlink_to("/etc/passwd")
    (root / "data").mkdir()
    (root / "data" / "rows.jsonl").write_text("{}")
    return root


def test_sources_alone_are_in_it(tmp_path: Path) -> None:
    archive = code_archive(make_project(tmp_path))
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        names = {member.name for member in opened if member.isfile()}
        assert {member.uid for member in opened} == {0}
    assert names == {"pyproject.toml", "pod_worker/a.py", "scripts/init_runpod.sh"}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    root = make_project(tmp_path)
    first = code_archive(root)
    os.utime(root / "pyproject.toml", (1, 1))
    assert code_archive(root) == first
    (root / "pyproject.toml").write_text("changed")
    assert code_archive(root) != first


def test_an_installed_package_has_no_project_to_copy(tmp_path: Path) -> None:
    assert code_archive(tmp_path) is None
