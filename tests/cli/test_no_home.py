"""A user without a home folder (no HOME, no passwd entry), or with one that it may not write to."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pod_worker.cli.exit_codes import ExitCode, exit_code_for
from tests.cli.conftest import Cli


@pytest.mark.parametrize("words", [("up",), ("worker",), ("doctor",)])
def test_a_default_folder_that_cannot_be_found_is_one_line_with_the_fix(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("POD_WORKER_DATA")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    result = cli(*words)
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith("Set HOME to a folder that this user may write to.")
    assert "Traceback" not in result.err


def test_a_folder_that_may_not_be_written_is_named_with_the_fix() -> None:
    code, text = exit_code_for(PermissionError(13, os.strerror(13), "/.pod_worker"))
    assert code == ExitCode.FAILED
    assert text.startswith("/.pod_worker: Permission denied. Give this user access to it, or set HOME,")


def test_the_doctor_finds_a_folder_that_cannot_be_written(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Below a file nothing can be created, by root neither."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("POD_WORKER_SPOOL_DIR", str(tmp_path / "file" / "spool"))
    rows = {row["check"]: row for row in cli("doctor", "--json").json}
    assert rows["disk"]["status"] == "bad"
    assert f"{tmp_path}/file/spool cannot be written by this user. Set HOME" in rows["disk"]["text"]
