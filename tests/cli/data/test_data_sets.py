"""Data sets over the real path: command line, control plane, object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli

pytestmark = pytest.mark.usefixtures("control_plane")


def test_a_file_and_a_folder_have_keys(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd() / "cache"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    folder = Path("corpus")
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a"}\n')
    (folder / "task.yaml").write_text("name: x\n")
    one = cli("data", "put", "corpus/train.jsonl")
    assert (one.code, one.out.startswith("data/"), one.out.endswith("/train.jsonl\n")) == (0, True, True), one.err
    assert "100 % of 14 B" in one.err
    made = cli("data", "put", "corpus", "--json")
    assert (made.json["files"], made.json["key"].endswith("/corpus/")) == (2, True), made.err
    again = cli("data", "put", "corpus")
    assert again.out.strip() == made.json["key"]
    assert f"-p dataset={made.json['key']}FILE" in again.err
    listed = cli("data", "list").out
    assert "/corpus/  2 files, 22 B" in listed
    assert "/train.jsonl  14 B" in listed


def test_what_cannot_be_a_data_set_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Path("linked").mkdir()
    Path("linked/out").symlink_to("/etc/passwd")
    for words, text in (
        (["empty"], "no file to upload"),
        (["linked"], "outside the folder"),
        (["none"], "does not exist"),
    ):
        refused = cli("data", "put", *words)
        assert (refused.code, text in refused.err) == (2, True), refused.err


@pytest.mark.parametrize("key", ["data/0123456789abcdef/corpus/train.jsonl", "runs/r1/2/train.jsonl"])
def test_a_key_is_no_path_of_this_machine(cli: Cli, db: Any, key: str) -> None:
    done = cli("runs", "submit", "training", "-p", "model=m", "-p", f"dataset={key}")
    assert done.code == 0, done.err
    assert "on this machine" not in done.err
