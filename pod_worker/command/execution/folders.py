"""The folders of a job below the run's folder.

`work` is an exact mirror of the workdir at the start of each attempt. The others outlive an attempt on this pod.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pod_worker.process.removal import remove


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
    def signals(self) -> Path:
        """For files by which the worker tells the command something."""
        return self.root / "signals"

    @property
    def stop_file(self) -> Path:
        return self.signals / "stop"

    @property
    def programs(self) -> Path:
        """First on PATH: programs that the interpreter's folder lacks."""
        return self.root / "bin"

    @property
    def modules(self) -> Path:
        """On PYTHONPATH: `pod_worker.report` for the Python of a job."""
        return self.root / "modules"

    def clear(self) -> None:
        """Remove what belongs to an earlier attempt; the workdir is empty then."""
        for path in (self.work, self.events, self.signals):
            remove(path)
        self.work.mkdir()
        self.signals.mkdir()

    def create(self) -> None:
        """The folders that a job writes to."""
        for path in (self.outputs, self.checkpoints):
            path.mkdir(parents=True, exist_ok=True)
