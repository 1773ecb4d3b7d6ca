"""Which files of a command are uploaded, under which names, and what is said about the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import ArtifactKind
from pod_worker.snapshots import outputs
from pod_worker.snapshots.folder import OpenedFolder, UnreadableError
from pod_worker.snapshots.outputs import OutputUploader, compile_glob
from tests.training.context import FolderContext


@dataclass(frozen=True)
class Pattern:
    glob: str
    required: bool = False


@pytest.fixture
def context(tmp_path: Path) -> FolderContext:
    return FolderContext(tmp_path, {})


def write(context: FolderContext, *names: str) -> None:
    for name in names:
        path = context.work_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def uploader(context: FolderContext, *patterns: Pattern) -> OutputUploader:
    return OutputUploader(context, context.work_dir / "work", patterns)


def names(context: FolderContext) -> list[str]:
    return sorted(each.key.split("/", 3)[3] for each in context.artifacts.published)


def test_names_keep_their_folder_and_the_index_lists_them(context: FolderContext) -> None:
    write(context, "outputs/a/model.bin", "outputs/top.csv", "work/results/x.json", "work/other.json")
    (context.work_dir / "outputs" / "link").symlink_to("/etc/passwd")
    made = uploader(context, Pattern("results/*.json", True)).finish(is_failed=False)
    assert names(context) == ["outputs.json", "outputs/a/model.bin", "outputs/top.csv", "work/results/x.json"]
    rows = json.loads((context.artifacts.root / made[-1].key).read_text())
    assert [row["name"] for row in rows] == ["outputs/a/model.bin", "outputs/top.csv", "work/results/x.json"]
    assert "link" in context.logs("warning")[0]


@pytest.mark.parametrize("is_failed", [False, True])
def test_a_required_glob_without_a_match_fails_a_success_only(context: FolderContext, is_failed: bool) -> None:
    write(context, "outputs/a")
    made = uploader(context, Pattern("model.bin", True), Pattern("*.png"))
    if is_failed:
        assert len(made.finish(is_failed=True)) == 2
    else:
        with pytest.raises(RunError, match=r"required output 'model\.bin'") as caught:
            made.finish(is_failed=False)
        assert caught.value.code is FailureCode.USER_ERROR
    assert len([each for each in context.logs("warning") if "matches no file" in each]) == 2
    assert "outputs/a" in names(context)


def test_what_is_beyond_the_limit_is_named(context: FolderContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "FILES_LIMIT", 1)
    write(context, "outputs/a", "outputs/b")
    uploader(context).finish(is_failed=False)
    assert names(context) == ["outputs.json", "outputs/a"]
    assert "outputs/b" in context.logs("warning")[0]


def test_a_settled_file_leaves_during_the_run_and_once(
    context: FolderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_SETTLE_SECONDS", 0.0)
    write(context, "outputs/a")
    made = uploader(context)
    made._poll()
    assert names(context) == []
    made._poll()
    made._poll()
    assert names(context) == ["outputs/a"]
    made.finish(is_failed=False)
    assert names(context) == ["outputs.json", "outputs/a"]


def test_only_what_the_command_did_counts_as_a_change(
    context: FolderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of this program would leave an output behind without a word."""
    write(context, "outputs/a")

    def broken(*_: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(context.artifacts, "publish", broken)
    with pytest.raises(KeyError):
        uploader(context).finish(is_failed=False)


def test_a_folder_that_cannot_be_read_is_named(context: FolderContext, monkeypatch: pytest.MonkeyPatch) -> None:
    write(context, "outputs/a", "outputs/b/c")
    real = OpenedFolder.parent_of

    def closed(self: OpenedFolder, path: bytes) -> int:
        if path == b"b/c":
            raise UnreadableError("b: Permission denied")
        return real(self, path)

    monkeypatch.setattr(OpenedFolder, "parent_of", closed)
    uploader(context).finish(is_failed=False)
    assert names(context) == ["outputs.json", "outputs/a"]
    assert any("outputs/b/c was not uploaded: b: Permission denied" in each for each in context.logs("warning"))


def test_a_store_that_refuses_fails_a_success_only(context: FolderContext) -> None:
    write(context, "outputs/a.bin")
    context.artifacts.refused = {ArtifactKind.OTHER}
    assert uploader(context).finish(is_failed=True) == []
    assert "stay on this pod" in context.logs("warning")[0]
    with pytest.raises(RunError):
        uploader(context).finish(is_failed=False)


@pytest.mark.parametrize(
    ("glob", "path", "is_match"),
    [
        ("*.json", "a.json", True),
        ("*.json", "a/b.json", False),
        ("**/*.json", "a.json", True),
        ("**/*.json", "a/b/c.json", True),
        ("results", "results/a/b", True),
        ("results/**", "results/a/b", True),
        ("results/**", "results", False),
        ("a?[0-9].x", "ab1.x", True),
        ("a.json", "axjson", False),
    ],
)
def test_globs(glob: str, path: str, is_match: bool) -> None:
    assert (compile_glob(glob).fullmatch(path) is not None) == is_match


@pytest.mark.parametrize("glob", ["/etc/*", "../x", "a/../../x", ""])
def test_a_glob_that_leads_outside_is_refused(glob: str) -> None:
    with pytest.raises(RunError, match="below the working directory"):
        compile_glob(glob)
