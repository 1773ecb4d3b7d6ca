"""Finished experiments of an earlier attempt, on this pod or from the store.

The original saves checkpoints during its search and never loads them, so an unfinished search starts over. What
follows the search reads its files alone, so a finished one is kept and only the writing is repeated.
"""

from __future__ import annotations

from pathlib import Path

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact, ArtifactKind, Context
from pod_worker.stages.ai_scientist.journal import is_search_finished
from pod_worker.stages.ai_scientist.program import ProgramFolder
from pod_worker.stages.ai_scientist.results import pack_experiment, unpack_experiment

ARCHIVE = "experiment.tar.gz"


class FinishedSearch:
    def __init__(self, context: Context, folder: ProgramFolder, redactor: Redactor) -> None:
        self._context, self._folder, self._redactor = context, folder, redactor
        self.state: dict[str, Json] = dict(context.saved_state)

    def find(self) -> str | None:
        """The folder to continue from, by name; None to start from the beginning."""
        name, was_started = self.state.get("experiment"), "started" in self.state
        if not was_started:
            self._folder.clear()  # a person reset the run to its start
            return None
        found = self._local(name) or self._fetched()
        if found:
            self._context.log(f"the experiments are finished: only plots, paper and review are repeated ({found})")
        else:
            self._context.log(
                "AI-Scientist-v2 cannot continue interrupted experiments: it never loads its checkpoints. "
                "This attempt starts over and pays for them again",
                "warning",
            )
        return found

    def record_start(self) -> None:
        self.state = {**self.state, "started": self._context.run.attempt}
        self._context.checkpoint(self.state)

    def save(self, experiment: Path) -> None:
        """The search has finished: keep its files for another attempt, on any pod."""
        self.state = {**self.state, "experiment": experiment.name}
        self._context.checkpoint(self.state)
        if "archive" in self.state:
            return  # an earlier attempt stored it
        try:
            stored = self._store(experiment)
        except RunError as error:
            if error.code not in (FailureCode.STORAGE, FailureCode.NETWORK):
                raise
            self._context.log(f"the finished experiments stay on this pod only: {error}", "warning")
            return
        self.state = {
            **self.state,
            "archive": {"key": stored.key, "sha256": stored.sha256, "name": experiment.name},
        }
        self._context.checkpoint(self.state)

    def _store(self, experiment: Path) -> Artifact:
        path = self._context.work_dir / ARCHIVE
        try:
            for name in pack_experiment(experiment, path, self._redactor):
                self._context.log(
                    f"{name} is not in the archive: too large, no plain file, or a key in it", "warning"
                )
            return self._context.artifacts.publish(path, ArtifactKind.ARCHIVE, name=ARCHIVE)
        finally:
            path.unlink(missing_ok=True)

    def _local(self, name: Json) -> str | None:
        if not isinstance(name, str) or not self._folder.holds(name):
            return None
        return name if is_search_finished(self._folder.experiments / name) else None

    def _fetched(self) -> str | None:
        archive = self.state.get("archive")
        if not isinstance(archive, dict):
            return None
        path = self._context.work_dir / ARCHIVE
        self._context.artifacts.fetch(str(archive["key"]), path, str(archive["sha256"]))
        unpack_experiment(path, self._folder.experiments)
        path.unlink()
        return self._local(archive.get("name"))
