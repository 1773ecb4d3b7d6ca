"""The stage `command`: a real program, and how its end is named."""

from __future__ import annotations

import base64
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, Interruption, RunError
from pod_worker.core.payload import Payload, StageMetric
from pod_worker.core.run import Checkpoint, Run, RunStatus
from pod_worker.process.tree import become_subreaper
from pod_worker.snapshots import snapshot_store
from pod_worker.stages.command import COMMAND
from pod_worker.stages.context import StageContext, StopFlag
from tests.command.reports.test_tensorboard import TENSORBOARDX
from tests.training.context import FolderArtifacts

NEVER = 600.0


@pytest.fixture(autouse=True)
def subreaper_ends() -> Iterator[None]:
    yield
    become_subreaper(enabled=False)


class Job:
    """The stage with a context as the child makes it, without a network."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "r"
        self.root.mkdir(parents=True)
        self.store = folder / "store"
        self.work = self.root / "work"
        self.stop = StopFlag()
        self.events: list[Payload] = []
        self.state: dict[str, Any] = {}
        self.sandbox: CodeRunner | None = None

    def _open_sandbox(self) -> CodeRunner:
        if self.sandbox is None:
            raise RunError(FailureCode.ENVIRONMENT, "the protection network could not be proved")
        return self.sandbox

    def emit(self, payload: Payload) -> str:
        self.events.append(payload)
        return str(len(self.events))

    def save(self, stage: str, state: dict[str, Any]) -> None:
        self.state = state

    def execute(self, attempt: int = 1, **params: Any) -> dict[str, Any]:
        saved = {"command": Checkpoint("command", False, self.state)} if self.state else {}
        run = Run("r", "command", "command", RunStatus.RUNNING, params, attempt=attempt, checkpoints=saved)
        context = StageContext(
            run,
            "command",
            work_dir=self.root,
            emitter=self,
            artifacts=FolderArtifacts(self.store, attempt),
            stop=self.stop,
            save=self.save,
            clock=SystemClock(),
            open_sandbox=self._open_sandbox,
        )
        return COMMAND.run(context)

    def request_when_ready(self, reason: type[Interruption], seconds: float = NEVER) -> None:
        """Ask the job to stop as soon as it has created `ready` in its workdir."""

        def watch() -> None:
            while not (self.work / "ready").exists():
                threading.Event().wait(0.02)
            self.stop.request(reason, seconds)

        threading.Thread(target=watch, daemon=True).start()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_text_runs_in_a_strict_shell_and_a_list_as_it_is(job: Job) -> None:
    assert job.execute(run="echo $PWD > where; cp where $OUTPUT_DIR")["exit_code"] == 0
    assert (job.root / "outputs" / "where").read_text().strip() == str(job.work)
    job.execute(run=["touch", "a b;c"])
    assert (job.work / "a b;c").exists()
    for strict in ("false | true", "false; true", "echo $UNSET_VARIABLE"):
        with pytest.raises(RunError):
            job.execute(run=strict)


@pytest.mark.parametrize(
    ("run", "code", "text"),
    [
        ("exit 3", FailureCode.USER_ERROR, "exit code 3"),
        ("kill -SEGV $$", FailureCode.CRASHED_SIGNAL, "SIGSEGV"),
        ("no-such-program", FailureCode.USER_ERROR, "exit code 127"),
        (["no-such-program"], FailureCode.USER_ERROR, "was not found"),
    ],
)
def test_an_end_that_is_no_success_is_named(job: Job, run: str | list[str], code: FailureCode, text: str) -> None:
    with pytest.raises(RunError) as caught:
        job.execute(run=run)
    assert caught.value.code is code
    assert text in caught.value.message


@pytest.mark.parametrize("reason", [DrainRequested, CancelRequested])
def test_a_job_that_leaves_with_success_after_a_request_to_stop_is_not_finished(
    job: Job, reason: type[Interruption]
) -> None:
    """It saved its state and left, as it was asked. Marking it completed would lose the rest of its work."""
    job.request_when_ready(reason)
    wait = "touch ready; while [ ! -e $POD_WORKER_STOP_FILE ]; do sleep 0.05 || true; done"
    with pytest.raises(reason):
        job.execute(run=f"trap : TERM; {wait}; echo saved > $CHECKPOINT_DIR/state; exit 0")
    assert (job.root / "checkpoints" / "state").exists()


def test_a_job_that_had_ended_before_the_request_is_finished(job: Job) -> None:
    assert job.execute(run="exit 0")["exit_code"] == 0
    job.stop.request(DrainRequested, NEVER)


def test_a_failure_while_being_stopped_costs_nothing(job: Job) -> None:
    job.request_when_ready(DrainRequested)
    with pytest.raises(DrainRequested):
        job.execute(run="trap 'exit 9' TERM; touch ready; while :; do sleep 0.05; done")


def test_the_next_attempt_resumes_in_a_clean_workdir(job: Job) -> None:
    job.execute(run="test $RESUME = 0; touch old; echo 5 > $CHECKPOINT_DIR/step")
    job.execute(attempt=2, run="test $RESUME = 1; test ! -e old; test $(cat $CHECKPOINT_DIR/step) = 5")


def test_the_summary_names_the_kept_snapshots(job: Job) -> None:
    summary = job.execute(run="echo 5 > $CHECKPOINT_DIR/step")
    assert summary["snapshots"]
    assert summary["snapshots"] == job.state["snapshots"]


def test_another_pod_has_the_checkpoints_of_the_last_snapshot(job: Job, tmp_path: Path) -> None:
    with pytest.raises(RunError):
        job.execute(run="echo 5 > $CHECKPOINT_DIR/step; exit 3")
    other = Job(tmp_path / "other")
    other.state = job.state
    other.store = job.store
    other.execute(attempt=2, run="test $RESUME = 1; test $(cat $CHECKPOINT_DIR/step) = 5")


def test_the_command_decides_when_a_snapshot_is_taken(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a Python without pod_worker; between two of them it waits for the first."""
    monkeypatch.setattr(snapshot_store, "REQUEST_PAUSE_SECONDS", 0.0)
    report = "/usr/bin/python3 -c 'from pod_worker import report; report.checkpoint()'"
    saved = [
        f"until ls {job.store}/runs/*/1/snapshots/00000{number}.manifest; do sleep 0.02; done" for number in (1, 2)
    ]
    lines = [f"echo {number} > $CHECKPOINT_DIR/step; {report}; {wait}" for number, wait in enumerate(saved)]
    job.execute(run="\n".join(lines))
    assert len(job.state["snapshots"]) >= 2


def test_outputs_are_uploaded_also_when_the_command_fails(job: Job) -> None:
    with pytest.raises(RunError, match="exit code 3"):
        job.execute(
            run="echo 1 > $OUTPUT_DIR/loss.txt; echo 2 > result.json; exit 3",
            outputs=[{"glob": "*.json", "required": False}],
        )
    names = {path.name for path in job.store.rglob("*") if path.is_file()}
    assert {"loss.txt", "result.json"} <= names


def test_a_required_output_that_is_missing_fails_a_success(job: Job) -> None:
    with pytest.raises(RunError, match=r"model\.bin") as refused:
        job.execute(run="true", outputs=[{"glob": "model.bin", "required": True}])
    assert refused.value.code is FailureCode.USER_ERROR


def test_a_commit_of_a_repository_is_the_workdir(job: Job, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*words: str) -> str:
        name = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *name, *words], cwd=repository, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (repository / "value").write_text("first")
    git("add", "-A")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    (repository / "value").write_text("second")
    git("commit", "-qam", "second")
    job.execute(run="cp value $OUTPUT_DIR", workdir={"git": f"file://{repository}", "commit": commit})
    assert (job.root / "outputs" / "value").read_text() == "first"


def test_a_repository_that_cannot_be_fetched_is_a_network_failure(job: Job, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="could not be fetched with git") as failed:
        job.execute(run="true", workdir={"git": f"file://{tmp_path}/nowhere", "commit": "0" * 40})
    assert failed.value.code is FailureCode.NETWORK


def test_a_request_before_the_start_executes_nothing(job: Job) -> None:
    job.stop.request(DrainRequested, NEVER)
    with pytest.raises(DrainRequested):
        job.execute(run="touch $OUTPUT_DIR/ran; sleep 600")
    assert not (job.root / "outputs" / "ran").exists()


def test_lines_of_the_events_file_become_metrics(job: Job) -> None:
    line = '{"metric":"loss","value":0.5,"step":1}'
    job.execute(run=f"echo '{line}' >> $POD_WORKER_EVENTS")
    assert [each.value for each in job.events if isinstance(each, StageMetric)] == [0.5]


def test_scalars_of_tensorboard_files_become_metrics(job: Job) -> None:
    source = job.root.parent / "events.out.tfevents.1.host"
    source.write_bytes(base64.b64decode(TENSORBOARDX))
    job.execute(run=f"mkdir -p runs; cp {source} runs; cp {source} $OUTPUT_DIR", tensorboard="runs")
    found = [(each.name, each.value, each.step) for each in job.events if isinstance(each, StageMetric)]
    assert sorted(found) == [("loss", 0.25, 7), ("work/runs/loss", 0.25, 7)]


def test_a_named_tensorboard_folder_that_stays_empty_is_warned_of(job: Job) -> None:
    job.execute(run="true", tensorboard="runs")
    assert any("no event file below 'runs'" in getattr(each, "message", "") for each in job.events)
