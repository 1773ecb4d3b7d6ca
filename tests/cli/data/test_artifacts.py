"""Artifacts over the real path: command line, control plane, object store."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import requests
from pymongo.database import Database

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.control.artifacts.sweep import sweep_checkpoints
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ROTATED_ROLE, Artifact
from pod_worker.store import artifact_registry
from tests.cli.conftest import TOKEN, Cli

pytestmark = pytest.mark.usefixtures("control_plane")
NAMES = ["a # b?.txt", "100%41.txt", "adapter/config.json", "adapter/weights.bin", "résumé +&=.txt", "loss.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_any_characters_is_downloaded(cli: Cli, publish: Any, tmp_path: Path, name: str) -> None:
    key = publish(name, name.encode())
    done = cli("artifacts", "get", key, "-o", str(tmp_path / "back"))
    assert done.code == 0, done.err
    assert (tmp_path / "back").read_bytes() == name.encode()
    assert cli("artifacts", "get", key).code == 0
    assert (Path.cwd() / name.rsplit("/", 1)[-1]).read_bytes() == name.encode()
    assert key in cli("artifacts", "list", "run1").out
    assert [each["key"] for each in cli("artifacts", "list", "run1", "--json").json] == [key]


def test_a_dash_writes_to_stdout(cli: Cli, publish: Any) -> None:
    done = cli("artifacts", "get", publish("a.bin", b"\x00\r\nbytes"), "-o", "-")
    assert done.code == 0, done.err
    assert done.out == "\x00\r\nbytes"
    assert not Path("-").exists()


def test_a_run_and_a_name_give_the_latest_attempts_file(cli: Cli, publish: Any, tmp_path: Path) -> None:
    publish("loss.txt", b"one", attempt=1)
    publish("loss.txt", b"two", attempt=2)
    assert cli("artifacts", "get", "run1", "loss.txt", "-o", str(tmp_path / "x")).code == 0
    assert (tmp_path / "x").read_bytes() == b"two"


@pytest.mark.parametrize("folder", ["adapter", "adapter/"])
def test_a_folder_gives_every_file_below_it(cli: Cli, publish: Any, tmp_path: Path, folder: str) -> None:
    for name in NAMES:
        publish(name, name.encode())
    done = cli("artifacts", "get", "run1", folder, "-o", str(tmp_path / "out"))
    assert done.code == 0, done.err
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"adapter/config.json", "adapter/weights.bin"}


def test_a_run_alone_gives_everything(cli: Cli, publish: Any) -> None:
    for name in NAMES:
        publish(name, name.encode())
    assert cli("artifacts", "get", "run1").code == 0
    assert {name for name in NAMES if Path(name).read_bytes() == name.encode()} == set(NAMES)


def test_a_file_of_the_user_is_not_overwritten_and_a_second_download_goes_on(cli: Cli, publish: Any) -> None:
    publish(".bashrc", b"of the run")
    publish("loss.txt", b"0.5")
    Path(".bashrc").write_text("of the user")
    refused = cli("artifacts", "get", "run1")
    assert (refused.code, Path(".bashrc").read_text()) == (2, "of the user")
    assert "--force" in refused.err
    assert not Path("loss.txt").exists()
    assert cli("artifacts", "get", "run1", "loss.txt").code == 0
    again = cli("artifacts", "get", "run1", "--force")
    assert (again.code, Path(".bashrc").read_text()) == (0, "of the run")
    assert "1 of 2 files were here already" in again.err


def test_what_is_missing_is_named(cli: Cli, publish: Any) -> None:
    publish("a", b"x")
    publish("b", b"y")
    for words in (["runs/run1/2/none"], ["run1", "none"], ["none"]):
        assert cli("artifacts", "get", *words).code == 3
    done = cli("artifacts", "get", "run1", "-o", "-")
    assert done.code == 2
    assert "2 files cannot go to stdout" in done.err


def test_other_bytes_than_registered_are_not_kept(
    cli: Cli, publish: Any, store: ObjectStore, tmp_path: Path
) -> None:
    key = publish("a.txt", b"right")
    (tmp_path / "wrong").write_bytes(b"wrong")
    store.put(key, tmp_path / "wrong")
    done = cli("artifacts", "get", key, "-o", str(tmp_path / "back"))
    assert done.code == 1
    assert "another hash" in done.err
    assert not list(tmp_path.glob("*back*"))


def test_an_object_longer_than_registered_is_cut_off(
    cli: Cli, publish: Any, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged store could fill the disk of the user before the hash was compared."""
    monkeypatch.setattr("pod_worker.cli.downloads._BLOCK_BYTES", 4)
    key = publish("a.txt", b"right")
    (tmp_path / "longer").write_bytes(b"rightlonger")
    store.put(key, tmp_path / "longer")
    written = cli("artifacts", "get", key, "-o", "-")
    assert written.code == 1
    assert "longer than the 5 bytes" in written.err
    assert written.out == "righ", "what was sent beyond is not passed on"


def test_the_key_goes_to_the_control_plane_only(
    cli: Cli, publish: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control_plane: str
) -> None:
    sent: list[tuple[str, str | None]] = []
    real = requests.Session.send

    def recorded(self: requests.Session, request: Any, **settings: Any) -> Any:
        sent.append((request.url, request.headers.get("Authorization")))
        return real(self, request, **settings)

    monkeypatch.setattr(requests.Session, "send", recorded)
    assert cli("artifacts", "get", publish("a.txt", b"x"), "-o", str(tmp_path / "back")).code == 0
    assert [header for _, header in sent] == [f"Bearer {TOKEN}", None]
    assert [url.startswith(control_plane) for url, _ in sent] == [True, False]


def test_a_control_plane_that_is_away_is_a_temporary_failure(
    cli: Cli, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CONTROL_PLANE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        done = cli("artifacts", "get", publish("a.txt", b"x"))
    assert done.code == 75
    assert TOKEN not in done.err


def test_a_superseded_checkpoint_is_neither_listed_nor_downloaded(
    cli: Cli, db: Any, store: ObjectStore, tmp_path: Path
) -> None:
    db["runs"].insert_one({"_id": "run1", "status": "RUNNING", "attempt": 2, "leaseToken": "t"})
    keys = [f"runs/run1/2/checkpoints/{step}.tar" for step in (1, 2)]
    (tmp_path / "body").write_bytes(b"body")
    for key in keys:
        store.put(key, tmp_path / "body")
        made = Artifact(key, 4, hashlib.sha256(key.encode()).hexdigest(), "checkpoint", "a/b", ROTATED_ROLE)
        assert artifact_registry.register(db, key, Fence("run1", 2, "t"), made)
    db["runs"].update_one({"_id": "run1"}, {"$set": {"checkpoints.training": {"state": {"key": keys[1]}}}})
    assert sweep_checkpoints(db, store) == 1
    assert [row["key"] for row in cli("artifacts", "list", "run1", "--json").json] == keys[1:]
    for words in (keys[:1], ["run1", "checkpoints/1.tar"]):
        assert cli("artifacts", "get", *words).code == 3


def test_unknown_runs_and_runs_without_artifacts_are_told_apart(cli: Cli, db: Database[dict[str, Any]]) -> None:
    assert (cli("artifacts", "list", "nope").code, cli("artifacts", "list", "nope", "--json").out) == (3, "")
    db.runs.insert_one({"_id": "r1", "status": "QUEUED"})
    result = cli("artifacts", "list", "r1")
    assert (result.code, "no artifacts" in result.err) == (0, True)


def _index(publish: Any, rows: list[tuple[str, str, int]]) -> None:
    """The index of outputs as the command's stage publishes it."""
    found = [{"name": name, "key": key, "sha256": "0" * 64, "bytes": 1, "mode": mode} for name, key, mode in rows]
    publish("outputs.json", json.dumps(found).encode(), role="outputs")


def test_outputs_get_their_folder_tree_back(cli: Cli, publish: Any) -> None:
    """Equal files are one artifact, and a second version has a key with a suffix."""
    same = publish("outputs/a/same.txt", b"same")
    publish("outputs/log.txt", b"first")
    newest = publish("outputs/log.0123456789ab.txt", b"second")
    rows = [
        ("outputs/a/same.txt", same, 0o644),
        ("outputs/b/tool", same, 0o755),
        ("outputs/log.txt", newest, 0o644),
    ]
    _index(publish, [*rows, ("outputs/../../outside", same, 0o644), ("outputs/other", "runs/other/1/x", 0o644)])
    done = cli("artifacts", "get", "run1", "outputs")
    assert done.code == 0, done.err
    found = {str(path): path.read_text() for path in Path("outputs").rglob("*") if path.is_file()}
    assert found == {"outputs/a/same.txt": "same", "outputs/b/tool": "same", "outputs/log.txt": "second"}
    assert os.access("outputs/b/tool", os.X_OK)
    assert not os.access("outputs/log.txt", os.X_OK)
    assert not Path("../outside").exists()


def test_an_index_that_a_program_wrote_is_not_believed(cli: Cli, publish: Any) -> None:
    publish("outputs/a.txt", b"a")
    publish("outputs.json", b"[1", role="outputs")
    done = cli("artifacts", "get", "run1", "outputs")
    assert (done.code, Path("outputs/a.txt").read_bytes()) == (0, b"a")
    assert "no index of outputs" in done.err


def test_a_kind_selects(cli: Cli, publish: Any) -> None:
    publish("a.txt", b"a", kind="log")
    publish("b.txt", b"b")
    assert cli("artifacts", "get", "run1", "--kind", "log").code == 0
    assert [path.name for path in Path.cwd().glob("*.txt")] == ["a.txt"]
    refused = cli("artifacts", "get", "run1", "b.txt", "--kind", "log")
    assert (refused.code, "of kind log" in refused.err) == (3, True)


def test_a_file_is_put_into_a_run_that_no_worker_holds(
    cli: Cli, db: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db["runs"].insert_one({"_id": "done", "name": "mine", "status": "COMPLETED", "attempt": 3})
    (tmp_path / "eval.csv").write_text("a,b\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    put = cli("artifacts", "put", "mine", "eval.csv", "--name", "later/eval.csv")
    assert (put.code, put.out) == (0, "runs/done/3/later/eval.csv\n"), put.err
    assert "100 % of 4 B" in put.err
    got = cli("artifacts", "get", "mine", "later", "--kind", "data", "-o", "back")
    assert got.code == 0, got.err
    assert (tmp_path / "back/later/eval.csv").read_text() == "a,b\n"
    assert "100 % of 4 B" in got.err
    again = cli("artifacts", "put", "mine", "eval.csv", "--name", "other.csv")
    assert again.out == put.out
    assert "these bytes already" in again.err


def test_a_file_for_a_run_that_a_worker_holds_is_refused(cli: Cli, publish: Any, tmp_path: Path) -> None:
    publish("a.txt", b"a")
    (tmp_path / "x").write_text("x")
    refused = cli("artifacts", "put", "run1", "x")
    assert refused.code == 1
    assert "held by a worker" in refused.err
    assert cli("artifacts", "put", "run1", "x", "--name", "../x").code == 2
    assert cli("artifacts", "put", "none", "x").code == 3


def test_the_picture_of_a_search_tree_is_downloaded(cli: Cli, publish: Any, tmp_path: Path) -> None:
    publish("reproduction/tree.svg", b"<svg/>")
    done = cli("runs", "tree", "run1", "--svg", str(tmp_path / "tree.svg"))
    assert done.code == 0, done.err
    assert (tmp_path / "tree.svg").read_bytes() == b"<svg/>"
