"""The one-shot executor: one program, one execution in the sandbox, one score.

The node folder belongs to the program while it runs, so files that the controller writes there afterwards replace
whatever has their name and follow no link. They are copies to look at; the journal is the record.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pod_worker.core.execution import CodeRunner, ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import truncate
from pod_worker.core.research.evaluation import NodeScore, RefusalKind, ResultRefusedError
from pod_worker.core.stage import StopSignal
from pod_worker.search.ports import Evaluator
from pod_worker.search.settings import SearchSettings
from pod_worker.search.slot_permits import SlotPermits
from pod_worker.search.task import SearchTask
from pod_worker.search.tree.node import NodeOutcome, SearchNode
from pod_worker.search.tree.records import NodeFinished

PROGRAM = "solution.py"
OUTPUT_KEPT = 8_000  # characters of the output in the journal
_ERROR_LIMIT = 1_000
_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?([A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Warning|Iteration))\b(?:: ?(.*))?$",
    re.MULTILINE,
)


class NodeExecutor(Protocol):
    """Executes a node and scores it; safe for several threads."""

    def execute(self, node: SearchNode, code: str, slot: int, stop: StopSignal) -> NodeFinished | None:
        """The outcome; None where a stop request ended the execution.

        Raises RunError where the sandbox or the machine fails.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotExecutor:
    runner: CodeRunner
    evaluator: Evaluator
    task: SearchTask
    settings: SearchSettings
    folder: Path  # of the search
    permits: SlotPermits | None = None  # where others execute programs in the slots too

    def execute(self, node: SearchNode, code: str, slot: int, stop: StopSignal) -> NodeFinished | None:
        folder = self._fresh_folder(node, code)
        with self.permits.hold(stop, slot) if self.permits else nullcontext():
            request = execution_request(self.task, self.settings, folder, node.seed, slot)
            result = self.runner.execute(request, stop)
        if result.end is ExecutionEnd.STOPPED:
            return None
        record = self._score(node, result, folder) if result.is_ok else failed(node, result)
        _write_copy(folder, "output.txt", result.output)
        _write_copy(folder, "result.json", json.dumps(_shown(record), indent=1))
        return record

    def _fresh_folder(self, node: SearchNode, code: str) -> Path:
        """An empty node folder with the program.

        A file of an earlier execution is never scored.
        """
        folder = self.folder / node.folder
        if folder.exists():
            self.runner.remove(folder)
        (folder / "out").mkdir(parents=True)
        (folder / PROGRAM).write_text(code)
        return folder

    def _score(self, node: SearchNode, result: ExecutionResult, folder: Path) -> NodeFinished:
        try:
            score = self.evaluator.score(folder)
            _refuse_not_finite(score)
        except ResultRefusedError as refusal:
            return _finished(node, result, NodeOutcome.NO_SCORE, refusal.kind, refusal.message)
        return NodeFinished(
            node_id=node.id,
            outcome=NodeOutcome.SCORED,
            search_score=score.search,
            hidden_score=score.hidden,
            is_self_reported=score.is_self_reported,
            exec_seconds=round(result.seconds, 3),
            output=kept_output(result.output),
            seed_proof=result.seed_proof,
        )


def execution_request(
    task: SearchTask, settings: SearchSettings, folder: Path, seed: int, slot: int, program: str = PROGRAM
) -> ExecutionRequest:
    """The contract with a program: what it reads and writes, seed and limits."""
    return ExecutionRequest(
        folder=folder,
        argv=(program,),
        limits=settings.limits,
        environment={"TASK_DIR": str(task.folder), "OUTPUT_DIR": str(folder / "out"), "RUN_SEED": str(seed)},
        readable=(task.folder, *task.readable),
        denied=task.denied,
        seed=seed,
        gpus=settings.gpus[slot] if settings.gpus else (),
        hosts=settings.hosts,
        unix_sockets=not settings.hosts,  # data loaders with workers need them; named hosts exclude them
    )


def failed(node: SearchNode, result: ExecutionResult) -> NodeFinished:
    """The outcome of an execution that did not end well."""
    if result.end is ExecutionEnd.TIMED_OUT:
        message = f"the program was ended after {result.seconds:.0f} seconds"
        return _finished(node, result, NodeOutcome.TIMED_OUT, "time", message)
    kind, message = _cause(result)
    return _finished(node, result, NodeOutcome.BUGGY, kind, message)


def _cause(result: ExecutionResult) -> tuple[str, str]:
    if result.end is ExecutionEnd.SIGNALED:
        name = _signal_name(result.signal)
        return name, f"the program was killed by {name}"
    if result.end is not ExecutionEnd.EXITED:
        return result.end.value, f"the program passed its limit of {result.end.value}"
    found = list(_EXCEPTION.finditer(result.output[-20_000:]))
    if found:
        return found[-1][1], (found[-1][2] or "").strip()
    return f"exit {result.exit_code}", f"the program ended with exit code {result.exit_code}"


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def _finished(
    node: SearchNode, result: ExecutionResult, outcome: NodeOutcome, kind: str, message: str
) -> NodeFinished:
    return NodeFinished(
        node_id=node.id,
        outcome=outcome,
        error_kind=str(kind),
        error=truncate(message, _ERROR_LIMIT),
        exec_seconds=round(result.seconds, 3),
        output=kept_output(result.output),
        seed_proof=result.seed_proof,
    )


def kept_output(text: str) -> str:
    """The beginning and the end of an output, as characters that JSON can hold."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= OUTPUT_KEPT:
        return text
    first = OUTPUT_KEPT // 4
    return f"{text[:first]}\n[{len(text) - OUTPUT_KEPT} characters cut]\n{text[first - OUTPUT_KEPT :]}"


def _refuse_not_finite(score: NodeScore) -> None:
    if not math.isfinite(score.search) or not math.isfinite(score.hidden or 0.0):
        raise ResultRefusedError(RefusalKind.NOT_FINITE, "the score is not a finite number")


def _shown(record: NodeFinished) -> dict[str, object]:
    """What result.json says.

    No hidden score: the file lies where programs ran.
    """
    return {
        "node_id": record.node_id,
        "outcome": record.outcome.value,
        "search_score": record.search_score,
        "is_self_reported": record.is_self_reported,
        "error_kind": record.error_kind,
        "error": record.error,
        "exec_seconds": record.exec_seconds,
        "seed_proof": record.seed_proof,
    }


def _write_copy(folder: Path, name: str, text: str) -> None:
    """Best effort: a program may have made a folder of this name, or filled the disk."""
    partial = folder / f".{secrets.token_hex(8)}"
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        partial.replace(folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
