"""Where an agent's programs run: a fresh folder with its files for each run.

What a program leaves behind is gone at the next run, so an outcome depends on the files alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.execution import CodeRunner, ExecutionEnd
from pod_worker.core.stage import StopSignal
from pod_worker.search.agent.turns import CONTENT_BYTES, ActionKind, AgentAction, AgentTurn, path_problem
from pod_worker.search.executor import execution_request, failed
from pod_worker.search.prompts import both_ends
from pod_worker.search.settings import SearchSettings
from pod_worker.search.slot_permits import SlotPermits
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.node import SearchNode

OUTPUT_KEPT = 64_000  # characters of a run that `read` reaches
SHOWN = 4_000  # of an output in one observation
FILES_LIMIT = 20
_LISTED = 12
_NAME_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    runner: CodeRunner
    task: SearchTask
    settings: SearchSettings
    permits: SlotPermits
    folder: Path
    node: SearchNode
    stop: StopSignal

    def perform(self, action: AgentAction, files: Mapping[str, str], last_output: str) -> AgentTurn:
        """The turn of an action that is no finish. `files` are those written before."""
        if action.action is ActionKind.READ:
            return _read(action, last_output)
        if problem := path_problem(action.path):
            return _refused(action, problem)
        if action.action is ActionKind.WRITE:
            return _write(action, files)
        return self._run(action, files)

    def _run(self, action: AgentAction, files: Mapping[str, str]) -> AgentTurn:
        if action.path not in files or not action.path.endswith(".py"):
            return _refused(action, f"there is no Python file {action.path}; {listed(files)}")
        self._fill(files)
        with self.permits.hold(self.stop) as slot:
            request = execution_request(
                self.task, self.settings, self.folder, self.node.seed, slot, program=action.path
            )
            result = self.runner.execute(request, self.stop)
        if result.end is ExecutionEnd.STOPPED:
            self.stop.check()
        output = both_ends(result.output.encode("utf-8", "replace").decode(), OUTPUT_KEPT)
        record = failed(self.node, result)
        end = "ended well" if result.is_ok else f"failed: {record.error_kind}: {record.error}"
        written = f"OUTPUT_DIR has {self._results()}."
        observation = f"{action.path} {end}. {written}\n{both_ends(output, SHOWN)}"
        return AgentTurn(action=action, observation=observation, is_ok=result.is_ok, output=output)

    def _fill(self, files: Mapping[str, str]) -> None:
        if self.folder.exists():
            self.runner.remove(self.folder)
        (self.folder / "out").mkdir(parents=True)
        for name, content in files.items():
            (self.folder / name).write_text(content, encoding="utf-8", errors="replace")

    def _results(self) -> str:
        """Names that a program chose: data, shown in quotes."""
        try:
            with os.scandir(self.folder / "out") as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            names = []
        shown = ", ".join(repr(name[:_NAME_SHOWN]) for name in names[:_LISTED])
        return shown or "no files"


def _write(action: AgentAction, files: Mapping[str, str]) -> AgentTurn:
    size = len(action.content.encode("utf-8", "replace"))
    if size > CONTENT_BYTES:
        return _refused(action, f"the content has {size} bytes; at most {CONTENT_BYTES} are written")
    if action.path not in files and len(files) >= FILES_LIMIT:
        return _refused(action, f"there are {FILES_LIMIT} files already; write to one of them")
    return AgentTurn(action=action, observation=f"{action.path} is written ({size} bytes).")


def _read(action: AgentAction, output: str) -> AgentTurn:
    if not output:
        return _refused(action, "no run has an output yet")
    start = min(max(action.offset, 0), len(output))
    end = min(start + SHOWN, len(output))
    return AgentTurn(
        action=action, observation=f"Characters {start} to {end} of {len(output)}:\n{output[start:end]}"
    )


def _refused(action: AgentAction, problem: str) -> AgentTurn:
    return AgentTurn(action=action, observation=f"Refused: {problem}.", is_ok=False)


def listed(files: Mapping[str, str]) -> str:
    return f"the files are {', '.join(files)}" if files else "no file is written yet"
