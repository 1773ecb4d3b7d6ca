"""A stand-in of AI-Scientist-v2 through real workers: its last step kills every Python process that it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from ulid import ULID

from pod_worker.core.clock import SystemClock
from pod_worker.stages.ai_scientist.params import complete
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from tests.acceptance.local_stack import Running, wait_for
from tests.stages.ai_scientist.original_run import KEY, params
from tests.stages.ai_scientist.stand_in import MARK, latex_stand_in

pytestmark = pytest.mark.slow


def enqueue(running: Running, **more: str) -> str:
    """Without a command, which takes longer than the run."""
    run_id = str(ULID())
    request = RunRequest(run_id, "ai_scientist", complete(params(**more)), max_duration_seconds=3600)
    RunQueue(running.db, SystemClock()).enqueue(request)
    return run_id


def output_of(running: Running, run_id: str) -> str:
    found = running.db.events.find({"runId": run_id, "type": "ai.run.log"})
    return "\n".join(event["data"]["message"] for event in found)


def processes(mark: str) -> list[str]:
    """Command lines of the stand-in's processes."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and "launch_scientist" in (
                words := " ".join(process.cmdline())
            ):
                found.append(words)
        except psutil.Error:
            continue
    return found


def test_runs_and_workers_survive_the_kill_and_a_cancel_ends_everything(
    running: Running, open_folder: Path
) -> None:
    mark = open_folder.name
    env: dict[str, Any] = {MARK: mark, "OPENAI_API_KEY": KEY, "PATH": latex_stand_in(open_folder)}
    go_on = open_folder / "go-on"
    beside = enqueue(running, code=f"survive {go_on}")
    with running.worker("beside", **env) as survivor:
        wait_for(lambda: "Paper review completed." in output_of(running, beside), "the end of the run beside")
        killing = enqueue(running)
        with running.worker("killing", "--max-runs", "1", **env) as killer:
            run = running.wait_status(killing, "AWAITING_HUMAN", "FAILED")
            assert killer.wait() == 0, killer.log_text()
        assert run["status"] == "AWAITING_HUMAN", run.get("errorMessage")
        assert "Start cleaning up processes" in output_of(running, killing), "it did kill"
        assert survivor.process.poll() is None
        go_on.touch()
        run = running.wait_status(beside, "AWAITING_HUMAN", "FAILED")
        assert (run["status"], run["attempt"]) == ("AWAITING_HUMAN", 1)
        assert KEY not in output_of(running, beside)
        assert "Bearer ***" in output_of(running, beside)

        canceled = enqueue(running, code="wait")
        wait_for(lambda: "Step 2/" in output_of(running, canceled), "the search to begin")
        assert processes(mark)
        OperatorActions(running.db).cancel(canceled)
        running.wait_status(canceled, "CANCELED")
        assert processes(mark) == []
