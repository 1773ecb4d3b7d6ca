"""The scan: what is taken, what is refused, and that the same tree has the same name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pod_worker.content import hash_cache
from pod_worker.content import tree as tree_module
from pod_worker.content.manifest import InvalidManifestError, decode, encode
from pod_worker.content.tree import TreeError, TreeLimits, scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


def _write(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _paths(folder: Path) -> list[str]:
    return [each.path for each in decode(scan(folder).encoded).files]


def test_ignored_files_stay_behind(folder: Path) -> None:
    _write(folder, "a.py", "b.log", "keep.log", "data/big.bin", "sub/x.tmp", "sub/y.py", ".git/config", "sub/.git")
    (folder / ".gitignore").write_text("*.log\n!keep.log\ndata/\n")
    (folder / "sub/.gitignore").write_text("*.tmp\n")
    assert _paths(folder) == [".gitignore", "a.py", "keep.log", "sub/.gitignore", "sub/y.py"]
    (folder / ".podignore").write_text("!data/\n")
    assert "data/big.bin" in _paths(folder)


def test_rules_of_the_repository_hold_in_a_folder_of_it(folder: Path) -> None:
    _write(folder, "job/a.py", "job/secret.env", ".git/HEAD")
    (folder / ".gitignore").write_text("*.env\n")
    assert _paths(folder / "job") == ["a.py"]


def test_the_same_tree_has_the_same_name(folder: Path, tmp_path: Path) -> None:
    _write(folder, "a/b", "Ä x\n.txt", "A", "a.b")
    (folder / "run.sh").write_text("")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a/b")
    first = scan(folder)
    other = tmp_path / "other"
    folder.rename(other)
    assert scan(other).sha256 == first.sha256
    assert [each.is_executable for each in first.manifest.files if each.path == "run.sh"] == [True]
    assert [each.target for each in first.manifest.links] == ["a/b"]
    (other / "run.sh").chmod(0o644)
    assert scan(other).sha256 != first.sha256


def test_refusals_name_the_file_and_the_fix(folder: Path) -> None:
    _write(folder, "ok")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../x")
    os.mkfifo(folder / "pipe")
    with open(os.fsencode(folder) + b"/bad\xff", "w"):
        pass
    with pytest.raises(TreeError) as caught:
        scan(folder)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for name in ("'out' is a link to '/etc/passwd'", "'up'", "'pipe'", "'bad\\udcff'", ".podignore"):
        assert name in text


def test_an_empty_folder_is_refused(folder: Path) -> None:
    _write(folder, "a.log")
    (folder / ".podignore").write_text("*\n")
    with pytest.raises(TreeError, match="no file to upload"):
        scan(folder)
    with pytest.raises(TreeError, match="not a folder"):
        scan(folder / "a.log")


def test_limits_name_the_largest(folder: Path) -> None:
    _write(folder, "small", "many/1", "many/2", "many/3")
    (folder / "large.bin").write_bytes(b"x" * 5000)
    with pytest.raises(TreeError, match=r"large\.bin"):
        scan(folder, TreeLimits(bytes=4000))
    with pytest.raises(TreeError, match=r"'many' \(3 files\)"):
        scan(folder, TreeLimits(files=4))
    assert scan(folder).largest[0] == ("large.bin", 5000)


def test_unchanged_files_are_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "SETTLED_NS", -1_000_000_000_000)
    _write(folder, "a", "b")
    first = scan(folder, cache=tmp_path / "cache")
    read: list[str] = []
    original = tree_module.stable_hash

    def recorded(path: Path) -> tuple[os.stat_result, str]:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(tree_module, "stable_hash", recorded)
    assert scan(folder, cache=tmp_path / "cache").sha256 == first.sha256
    assert read == []
    _write(folder, "a", text="y")
    assert scan(folder, cache=tmp_path / "cache").sha256 != first.sha256
    assert read == ["a"]


def test_a_file_that_changed_just_now_is_read_again(folder: Path, tmp_path: Path) -> None:
    _write(folder, "a")
    scan(folder, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_that_keeps_changing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(folder, "a")
    stamps = iter(range(100))
    monkeypatch.setattr(tree_module, "stamp", lambda _: (next(stamps), 0, 0, 0))
    with pytest.raises(TreeError, match="'a': it changes while it is read"):
        scan(folder)


@pytest.mark.parametrize("path", ["/a", "../a", "a/../b", "", "a//b", "a/", ".", "a\\u0000", "x" * 256])
def test_hostile_paths_are_no_manifest(folder: Path, path: str) -> None:
    _write(folder, "PLACE")
    encoded = scan(folder).encoded.replace(b"PLACE", path.encode())
    with pytest.raises(InvalidManifestError):
        decode(encoded)


def test_nothing_lies_below_a_file_or_link(folder: Path) -> None:
    _write(folder, "aaaa/b", "c")
    (folder / "link").symlink_to("aaaa")
    encoded = encode(scan(folder).manifest).replace(b"aaaa/b", b"link/b")
    with pytest.raises(InvalidManifestError, match="below"):
        decode(encoded)
