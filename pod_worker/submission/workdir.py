"""The working directory of a job: a folder to upload, or a repository at a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pod_worker.content.git_state import git_state
from pod_worker.content.hash_cache import hash_cache_folder
from pod_worker.content.tree import Tree, TreeError, TreeLimits, scan
from pod_worker.content.upload_client import ContentUploadError
from pod_worker.core.run import Json
from pod_worker.submission.address import ControlPlaneAddress
from pod_worker.submission.errors import JobInputError

_GIT = re.compile(r"((?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+)@([0-9a-f]{40}|[0-9a-f]{64})", re.ASCII)
_GIT_WITHOUT_COMMIT = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:", re.ASCII)


@dataclass(frozen=True, slots=True)
class PlannedWorkdir:
    """What the run's parameters say of the workdir; `tree` is what an upload sends."""

    reference: dict[str, Json]
    source: dict[str, Json] | None
    tree: Tree | None


def plan_workdir(text: str, base: Path, limits: TreeLimits) -> PlannedWorkdir:
    """Looks at the folder and reads its files. Raises JobInputError."""
    if found := _GIT.fullmatch(text):
        return PlannedWorkdir({"git": found[1], "commit": found[2]}, None, None)
    if _GIT_WITHOUT_COMMIT.match(text):
        raise JobInputError(
            "the workdir names a repository without a full commit: write URL@COMMIT (git rev-parse HEAD)"
        )
    folder = base / Path(text).expanduser()
    try:
        tree = scan(folder, limits, hash_cache_folder())
    except TreeError as error:
        raise JobInputError(str(error)) from None
    reference = {"manifest": tree.sha256, "files": tree.files, "bytes": tree.bytes}
    return PlannedWorkdir(reference, _source(folder), tree)


def missing_bytes(tree: Tree, address: ControlPlaneAddress) -> int | None:
    """Bytes that an upload would send; None when the control plane cannot be asked.

    It is asked once: a plan need not wait for a control plane that is away.
    """
    try:
        return sum(each.bytes for each in address.content_client(retry_seconds=0).missing(tree))
    except ContentUploadError:
        return None


def _source(folder: Path) -> dict[str, Json] | None:
    state = git_state(folder)
    if state is None:
        return None
    found: dict[str, Json] = {"commit": state.commit, "is_dirty": state.is_dirty}
    found |= {"branch": state.branch} if state.branch else {}
    return found | ({"diff_sha256": state.diff_sha256} if state.diff_sha256 else {})
