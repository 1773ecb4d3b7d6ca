"""A user without a home folder: no HOME, no passwd entry."""

from __future__ import annotations

import pwd

import pytest

from tests.cli.conftest import Cli


@pytest.mark.parametrize("words", [("up",), ("worker",), ("doctor",), ("pods", "list")])
def test_a_default_folder_that_cannot_be_found_is_one_line_with_the_fix(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("POD_WORKER_DATA")
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_unused")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    result = cli(*words)
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith("Set HOME to a folder that this user may write to.")
    assert "Traceback" not in result.err
