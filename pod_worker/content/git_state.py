"""The Git state of a folder: commit, branch, and a bounded diff. Information only."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

DIFF_LIMIT_BYTES = 1_000_000
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class GitState:
    """The state of a folder.

    `diff_sha256` is that of the whole diff to the commit; `diff` has its first bytes.
    """

    commit: str
    branch: str | None
    is_dirty: bool
    diff_sha256: str | None = None
    diff: bytes = b""


def git_state(folder: Path) -> GitState | None:
    """None outside a repository, without a commit, or without Git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").decode("utf-8", "replace").strip()
        is_dirty = bool(_git(folder, "status", "--porcelain", "--", "."))
        diff = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    digest = hashlib.sha256(diff).hexdigest() if diff else None
    return GitState(commit, None if branch == "HEAD" else branch, is_dirty, digest, diff[:DIFF_LIMIT_BYTES])


def _git(folder: Path, *arguments: str) -> bytes:
    # A repository's own settings must not start programs here.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    return subprocess.run(
        command, capture_output=True, check=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL
    ).stdout
