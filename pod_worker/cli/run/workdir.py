"""The working directory of a job: a folder to upload, or a repository at a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pod_worker.cli.composition import hash_cache_folder, load_settings
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say, size
from pod_worker.cli.progress import ByteProgress
from pod_worker.content.git_state import git_state
from pod_worker.content.tree import Tree, TreeError, TreeLimits, scan
from pod_worker.content.upload_client import RETRY_SECONDS, ContentClient, ContentUploadError
from pod_worker.core.credentials.secret import revealed
from pod_worker.core.run import Json

_GIT = re.compile(r"((?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+)@([0-9a-f]{40}|[0-9a-f]{64})", re.ASCII)
_GIT_WITHOUT_COMMIT = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:", re.ASCII)


@dataclass(frozen=True, slots=True)
class PlannedWorkdir:
    """What the run's parameters say of the workdir; `tree` is what an upload sends."""

    reference: dict[str, Json]
    source: dict[str, Json] | None
    tree: Tree | None


def plan_workdir(text: str, base: Path, limits: TreeLimits) -> PlannedWorkdir:
    """Looks at the folder and reads its files. Raises CommandError with the fix."""
    if found := _GIT.fullmatch(text):
        return PlannedWorkdir({"git": found[1], "commit": found[2]}, None, None)
    if _GIT_WITHOUT_COMMIT.match(text):
        raise CommandError(
            "the workdir names a repository without a full commit: write URL@COMMIT (git rev-parse HEAD)",
            ExitCode.USAGE,
        )
    folder = base / Path(text).expanduser()
    try:
        tree = scan(folder, limits, hash_cache_folder())
    except TreeError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    reference = {"manifest": tree.sha256, "files": tree.files, "bytes": tree.bytes}
    return PlannedWorkdir(reference, _source(folder), tree)


def missing_bytes(tree: Tree) -> int | None:
    """Bytes that an upload would send; None when the control plane cannot be asked.

    Asks once: a plan is looked at, and nothing is lost without this number.
    """
    try:
        return sum(each.bytes for each in _client(retry_seconds=0).missing(tree))
    except ContentUploadError:
        return None


def upload(tree: Tree) -> None:
    """Send what the control plane does not have. Raises CommandError."""
    try:
        with ByteProgress("upload") as progress:
            _client().upload(tree, lambda sent: progress.update(sent.sent, sent.total))
    except ContentUploadError as error:
        raise CommandError(f"the workdir was not uploaded: {error}", ExitCode.TEMPORARY) from None
    say(f"workdir: {tree.files} files, {size(tree.bytes)} from {tree.root}")


def _client(retry_seconds: float = RETRY_SECONDS) -> ContentClient:
    settings = load_settings()
    token = revealed(settings.control_plane_token)
    return ContentClient(settings.control_plane_url, token, retry_seconds=retry_seconds)


def _source(folder: Path) -> dict[str, Json] | None:
    state = git_state(folder)
    if state is None:
        return None
    found: dict[str, Json] = {"commit": state.commit, "is_dirty": state.is_dirty}
    found |= {"branch": state.branch} if state.branch else {}
    return found | ({"diff_sha256": state.diff_sha256} if state.diff_sha256 else {})
