"""The folders of a job below the run's folder.

`work` is an exact mirror of the workdir at the start of each attempt. The others outlive an attempt on this pod.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class JobFolders:
    root: Path
    checkpoint_dir: str = ""  # below the workdir

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def checkpoints(self) -> Path:
        return self.work / self.checkpoint_dir if self.checkpoint_dir else self.root / "checkpoints"

    @property
    def events(self) -> Path:
        return self.root / "events.ndjson"

    @property
    def stop_file(self) -> Path:
        return self.root / "stop"

    @property
    def programs(self) -> Path:
        """First on PATH: programs that the interpreter's folder lacks."""
        return self.root / "bin"

    @property
    def modules(self) -> Path:
        """On PYTHONPATH of an interpreter of its own: `pod_worker` alone."""
        return self.root / "modules"

    def clear(self) -> None:
        """Remove what belongs to an earlier attempt; the workdir is empty then."""
        for path in (self.work, self.events, self.stop_file):
            remove(path)
        self.work.mkdir()

    def create(self) -> None:
        """The folders that a job writes to."""
        for path in (self.outputs, self.checkpoints):
            path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Delete a file, link or folder, whatever modes a job left.

    Does nothing where there is none.
    """
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path, onerror=_open_and_retry)
    else:
        path.unlink()


def _open_and_retry(function: Callable[..., Any], path: str, _error: object) -> None:
    """A folder without write permission keeps its entries: open it, then try again."""
    for folder in (os.path.dirname(path), path):
        if not os.path.islink(folder):
            os.chmod(folder, 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        function(path)
