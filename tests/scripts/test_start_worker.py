"""`start_worker.sh` leaves `.env` to pod_worker.config, so both read it by one rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The worker's own complaint about this value shows that it was read.
URL = b"postgres://host/database"


def start_worker(folder: Path, dotenv: bytes | None) -> subprocess.CompletedProcess[str]:
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    if dotenv is not None:
        (folder / ".env").write_bytes(dotenv)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MONGODB", "POD_WORKER"))}
    env = clean | {
        "POD_WORKER_PYTHON": sys.executable,
        "POD_WORKER_DATA": str(folder / "no-stack"),
        "PYTHONPATH": str(ROOT),
    }
    command = ["bash", "scripts/start_worker.sh", "--mode", "all"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "dotenv",
    [
        b"MONGODB_URL=" + URL,
        b"\xef\xbb\xbfMONGODB_URL=" + URL,
        b"export MONGODB_URL=" + URL,
        b"MONGODB_URL = '" + URL + b"'\r\n",
        b"POD_WORKER_PYTHON=python3\nMONGODB_URL=" + URL,
    ],
)
def test_every_form_of_dotenv_is_read_as_pod_worker_reads_it(tmp_path: Path, dotenv: bytes) -> None:
    done = start_worker(tmp_path, dotenv)
    assert done.returncode == 2
    assert "MONGODB_URL must begin with mongodb://" in done.stderr


def test_a_missing_setting_and_another_encoding_are_named(tmp_path: Path) -> None:
    missing = start_worker(tmp_path / "a", None)
    assert missing.returncode == 2
    assert "MONGODB_URL is not set" in missing.stderr
    assert "API_KEY" not in missing.stderr
    utf16 = start_worker(tmp_path / "b", b"\xff\xfe" + "MONGODB_URL=x".encode("utf-16-le"))
    assert utf16.returncode == 2
    assert ".env is not UTF-8 but probably UTF-16" in utf16.stderr
