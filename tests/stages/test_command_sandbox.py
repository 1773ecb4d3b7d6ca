"""A command in the sandbox: what it reaches, what it may write, and how it ends."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.command.params import complete
from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.core.payload import RunLog, StageMetric
from pod_worker.core.run import Run, RunStatus
from pod_worker.process.removal import remove
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import LocalStarter
from pod_worker.worker.attempt.attempt_environment import needs_sandbox
from tests.sandbox.support import ROOT, floor, has_own_user, open_python
from tests.stages.test_command import Job


@pytest.fixture(scope="module")
def runner() -> Iterator[SandboxClient]:
    path = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    starter = LocalStarter(["json"], python=open_python(), variables={"PYTHONPATH": path})
    with SandboxClient(starter, floor()) as client:
        yield client


@pytest.fixture
def job(runner: SandboxClient) -> Iterator[Job]:
    """In a folder that every user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="sandboxed-command-"))
    folder.chmod(0o711)
    made = Job(folder)
    made.sandbox = runner
    yield made
    remove(folder)


def test_it_writes_its_own_files_and_nothing_else(
    job: Job, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = job.root.parent / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (job.root / "artifacts.ledger").write_text("of the worker")
    monkeypatch.setenv("HF_TOKEN", "of-the-worker")
    line = '{"metric":"loss","value":0.5,"step":1}'
    with socket.create_server(("127.0.0.1", 0)) as server:
        job.execute(
            sandbox=True,
            envs={"GIVEN": "value"},
            run=f"""
            echo "uid $(id -u) $GIVEN ${{HF_TOKEN:-none}}"
            echo 5 > $CHECKPOINT_DIR/step
            echo result > $OUTPUT_DIR/loss.txt
            echo {line!r} >> $POD_WORKER_EVENTS
            touch in-workdir
            for file in {outside}/x ../artifacts.ledger ../outputs2 $POD_WORKER_STOP_FILE; do
                if (echo x >> $file) 2> /dev/null; then echo "written $file"; fi
            done
            if (cat ../artifacts.ledger) 2> /dev/null; then echo read; fi
            if (exec 3<> /dev/tcp/127.0.0.1/{server.getsockname()[1]}) 2> /dev/null; then echo connected; fi
            echo done >&2
            """,
        )
    shown = capfd.readouterr().out
    assert shown.split("\n")[0].split()[2:] == ["value", "none"]
    assert "done" in shown
    assert not [word for word in ("written", "read", "connected") if word in shown]
    if has_own_user():
        assert shown.split()[1] not in ("0", str(os.getuid()))
    assert {"loss.txt"} <= {path.name for path in job.store.rglob("*")}
    assert job.state["snapshots"]
    assert [each.value for each in job.events if isinstance(each, StageMetric)] == [0.5]
    assert any(
        isinstance(each, RunLog) and each.message.startswith("sandbox: files, network") for each in job.events
    )


def test_the_next_attempt_resumes_although_the_first_closed_its_folders(
    job: Job, runner: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox deletes them: the stage, which is root in this test and another user on a pod, could not."""
    removed: list[Path] = []
    remove_as_program = runner.remove

    def recorded(path: Path) -> None:
        removed.append(path)
        remove_as_program(path)

    monkeypatch.setattr(runner, "remove", recorded)
    closed = "mkdir -m 0700 $CHECKPOINT_DIR/a b; echo 1 > $CHECKPOINT_DIR/a/x; chmod 0 b"
    job.execute(sandbox=True, run=closed)
    job.execute(attempt=2, sandbox=True, run="test $RESUME = 1; test $(cat $CHECKPOINT_DIR/a/x) = 1; test ! -e b")
    assert removed == [job.work, job.root / "checkpoints"]


@pytest.mark.parametrize(
    ("run", "code", "text"),
    [
        ("exit 3", FailureCode.USER_ERROR, "exit code 3"),
        ("kill -SEGV $$", FailureCode.CRASHED_SIGNAL, "SIGSEGV"),
        (["no-such-program"], FailureCode.USER_ERROR, "was not found"),
        (["./"], FailureCode.USER_ERROR, "it is a folder"),
    ],
)
def test_its_end_is_named_as_that_of_any_command(
    job: Job, run: str | list[str], code: FailureCode, text: str
) -> None:
    with pytest.raises(RunError) as caught:
        job.execute(sandbox=True, run=run)
    assert caught.value.code is code
    assert text in caught.value.message


def test_it_has_its_time_below_a_shell_that_died_of_sigterm(job: Job) -> None:
    job.request_when_ready(DrainRequested)
    saving = "trap 'until test -e $POD_WORKER_STOP_FILE; do :; done; sleep 0.3; echo saved > $CHECKPOINT_DIR/state; exit' TERM"
    inner = f"{saving}; touch ready; while :; do sleep 0.05 || true; done"
    with pytest.raises(DrainRequested):
        job.execute(sandbox=True, run='(bash -c "$INNER") & wait', envs={"INNER": inner})
    assert (job.root / "checkpoints/state").read_text() == "saved\n"


def test_it_is_killed_when_its_time_is_over(job: Job) -> None:
    job.request_when_ready(DrainRequested, 0.5)
    with pytest.raises(DrainRequested):
        job.execute(sandbox=True, run="trap '' TERM; touch ready; while :; do sleep 0.05; done")


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_guard_starts_a_server_for_a_command_that_asks(is_asked: bool) -> None:
    run = Run("r", "command", "command", RunStatus.RUNNING, complete({"run": "true", "sandbox": is_asked}))
    assert needs_sandbox(run) is is_asked


def test_a_machine_below_the_floor_is_refused_before_anything_is_fetched(job: Job) -> None:
    job.sandbox = None
    with pytest.raises(RunError, match="could not be proved") as refused:
        job.execute(sandbox=True, run="true", workdir={"git": "https://host.invalid/x", "commit": "0" * 40})
    assert refused.value.code is FailureCode.ENVIRONMENT
