"""Bootstrap steps as rendered, executed by a real bash behind a real sshd; the GPU and the installation are stood
in for by small scripts on PATH."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.core.clock import SystemClock
from pod_worker.pods.ssh.bootstrap import StepReport, StepStatus, run_steps
from pod_worker.pods.ssh.bootstrap_scripts import BootstrapPlan, Step, render_step, start_script, steps
from pod_worker.pods.ssh.client import SSHClient
from pod_worker.pods.ssh.host_keys import PinFolder
from tests.pods.sshd import Sshd

INIT = """#!/usr/bin/env bash
echo "init ran with: $* and TOKEN=$TOKEN"
echo x >> ran
"""
WORKER = """#!/usr/bin/env bash
echo "worker args: $* token: ${TOKEN:-none}"
exec -a pod_worker-worker sleep 300
"""


@pytest.fixture
def client(sshd: Sshd, tmp_path: Path) -> Iterator[SSHClient]:
    with SSHClient(sshd.address, sshd.login, pod_id="p1", pins=PinFolder(tmp_path / "pins")) as client:
        yield client


@pytest.fixture
def plan(tmp_path: Path) -> BootstrapPlan:
    """A pod in a folder: a volume, programs on PATH, the code, the environment of its first process."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "bin").mkdir()
    code = tmp_path / "code"
    (code / "scripts").mkdir(parents=True)
    (code / "pyproject.toml").write_text("")
    (code / "scripts" / "init_runpod.sh").write_text(INIT)
    (code / "scripts" / "start_worker.sh").write_text(WORKER)
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "TOKEN": 'it\'s a "secret"\nof two lines',
        "HOME": "/",
    }
    (tmp_path / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environ.items()))
    return BootstrapPlan(
        mount_path=str(tmp_path / "volume"),
        code_dir=str(code),
        min_free_gb=0.001,
        environ_file=str(tmp_path / "environ"),
        state_dir=str(tmp_path / "state"),
    )


def put_program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def bring_up(client: SSHClient, plan: BootstrapPlan, *, gpu: bool = False) -> tuple[StepReport, ...]:
    return run_steps(client, plan, steps(plan), clock=SystemClock(), gpu=gpu)


def one(client: SSHClient, plan: BootstrapPlan, step: Step) -> StepReport:
    (report,) = run_steps(client, plan, [step], clock=SystemClock())
    return report


def test_a_pod_without_gpu_steps_comes_up_and_again_costs_nothing(client: SSHClient, plan: BootstrapPlan) -> None:
    first = {report.name: report.outcome for report in bring_up(client, plan)}
    assert first == {
        "mount": StepStatus.DONE,
        "python": StepStatus.DONE,
        "nvidia-smi": StepStatus.SKIPPED,
        "code": StepStatus.DONE,
        "init": StepStatus.DONE,
        "cuda": StepStatus.SKIPPED,
    }
    again = {report.name: report.outcome for report in bring_up(client, plan)}
    assert again["code"] is StepStatus.ALREADY


def test_the_pods_own_environment_is_there_unharmed_and_never_sent(client: SSHClient, plan: BootstrapPlan) -> None:
    (report,) = [report for report in bring_up(client, plan) if report.name == "init"]
    assert 'TOKEN=it\'s a "secret"\nof two lines' in report.output
    assert "--no-start --skip-gpu" in report.output
    assert all("secret" not in render_step(plan, step) for step in steps(plan))


def test_the_gpu_steps_pass_on_a_gpu(client: SSHClient, plan: BootstrapPlan, tmp_path: Path) -> None:
    put_program(tmp_path, "nvidia-smi", 'echo "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)"')
    venv = Path(plan.code_dir) / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text("#!/usr/bin/env bash\ngrep -q torch.ones && echo allocated\n")
    (venv / "python").chmod(0o755)
    reports = bring_up(client, plan, gpu=True)
    assert [report.outcome for report in reports] == [StepStatus.DONE] * 6
    assert "allocated" in reports[-1].output


def test_fewer_gpus_than_promised_end_the_bootstrap_with_the_fix(
    client: SSHClient, plan: BootstrapPlan, tmp_path: Path
) -> None:
    put_program(tmp_path, "nvidia-smi", 'echo "GPU 0: NVIDIA GeForce RTX 4090"')
    reports = bring_up(client, replace(plan, gpu_count=2), gpu=True)
    assert reports[-1].name == "nvidia-smi"
    assert reports[-1].outcome is StepStatus.FAILED
    assert "1 of 2 GPUs" in reports[-1].output
    assert "terminate the pod" in str(reports[-1])


def test_a_missing_mount_is_named(client: SSHClient, plan: BootstrapPlan) -> None:
    (report,) = bring_up(client, replace(plan, mount_path="/no/such/volume"))
    assert report.outcome is StepStatus.FAILED
    assert "RUNPOD_VOLUME_MOUNT_PATH" in str(report)
    assert "/no/such/volume" in report.output


def test_a_full_volume_is_named(client: SSHClient, plan: BootstrapPlan) -> None:
    (report,) = bring_up(client, replace(plan, min_free_gb=1e9))
    assert "GB free" in report.output


def test_code_comes_from_an_archive(client: SSHClient, plan: BootstrapPlan, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(plan.code_dir, arcname=".")
    target = replace(plan, code_dir=str(tmp_path / "new" / "place"), code_archive=packed.getvalue())
    assert all(report.outcome is not StepStatus.FAILED for report in bring_up(client, target))
    assert (tmp_path / "new" / "place" / "ran").exists()


def test_code_comes_from_git(client: SSHClient, plan: BootstrapPlan, tmp_path: Path) -> None:
    put_program(tmp_path, "git", f'cp -r {plan.code_dir} "${{@: -1}}"; echo "$@" > {tmp_path}/asked')
    target = replace(plan, code_dir=str(tmp_path / "clone"), code_url="https://host/it's.git", code_ref="v1")
    assert all(report.outcome is not StepStatus.FAILED for report in bring_up(client, target))
    assert "clone --depth 1 --branch v1 https://host/it's.git" in (tmp_path / "asked").read_text()


def test_a_failed_step_leaves_no_marker_and_runs_again(
    client: SSHClient, plan: BootstrapPlan, tmp_path: Path
) -> None:
    step = Step("flaky", f"echo x >> {tmp_path}/tries; [ -e {tmp_path}/fixed ]", "touch it", once=True)
    assert one(client, plan, step).outcome is StepStatus.FAILED
    (tmp_path / "fixed").touch()
    assert one(client, plan, step).outcome is StepStatus.DONE
    assert one(client, plan, step).outcome is StepStatus.ALREADY
    assert (tmp_path / "tries").read_text() == "x\nx\n"
    changed = replace(step, script=step.script + "\ntrue")
    assert one(client, plan, changed).outcome is StepStatus.DONE, "another script is another step"


def test_any_failing_line_fails_the_step(client: SSHClient, plan: BootstrapPlan) -> None:
    for script in ("false\necho on", "echo $UNSET_NAME\necho on", "false | true\necho on"):
        report = one(client, plan, Step("s", script, "fix it"))
        assert report.outcome is StepStatus.FAILED
        assert "on" not in report.output.split()


def test_a_step_cannot_eat_the_script_that_follows(client: SSHClient, plan: BootstrapPlan) -> None:
    report = one(client, plan, Step("hungry", "cat\necho after", "fix it", once=True))
    assert report.outcome is StepStatus.DONE
    assert report.output == "after\n"
    assert one(client, plan, Step("hungry", "cat\necho after", "fix it", once=True)).outcome is StepStatus.ALREADY


def test_a_step_out_of_time_says_so(client: SSHClient, plan: BootstrapPlan) -> None:
    report = one(client, plan, Step("slow", "echo begun; sleep 60", "be faster", timeout_seconds=0.5))
    assert report.outcome is StepStatus.FAILED
    assert "timed out after 0 s" in report.output or "timed out after 1 s" in report.output
    assert "begun" in report.output


def test_two_bootstraps_at_once_do_the_work_once(
    sshd: Sshd, plan: BootstrapPlan, client: SSHClient, tmp_path: Path
) -> None:
    step = Step("work", f"echo x >> {tmp_path}/work; sleep 0.3", "fix it", once=True)
    outcomes: list[StepStatus] = []

    def other() -> None:
        with SSHClient(sshd.address, sshd.login, pod_id="p1", pins=PinFolder(tmp_path / "pins")) as second:
            outcomes.append(one(second, plan, step).outcome)

    thread = threading.Thread(target=other)
    thread.start()
    outcomes.append(one(client, plan, step).outcome)
    thread.join()
    assert sorted(outcome.name for outcome in outcomes) == ["ALREADY", "DONE"]
    assert (tmp_path / "work").read_text() == "x\n"


def test_a_worker_is_started_once_and_outlives_the_connection(
    client: SSHClient, plan: BootstrapPlan, tmp_path: Path
) -> None:
    script = start_script(plan, "hybrid")
    first = client.run("bash -s", timeout_seconds=30, stdin=script)
    assert first.is_success, first.stderr
    pid = int((tmp_path / "state" / "worker.pid").read_text())
    try:
        assert "already" not in first.stdout
        again = client.run("bash -s", timeout_seconds=30, stdin=script)
        assert again.stdout == f"worker is running: pid {pid}\n"
        assert int((tmp_path / "state" / "worker.pid").read_text()) == pid
        client.disconnect()
        assert os.getsid(pid) == pid
        log = (tmp_path / "state" / "worker.log").read_text()
        assert "worker args: --mode hybrid" in log
        assert "it's a" in log, "the worker has the pod's environment"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_worker_that_dies_at_once_is_reported_with_its_output(client: SSHClient, plan: BootstrapPlan) -> None:
    script = Path(plan.code_dir) / "scripts" / "start_worker.sh"
    script.write_text("echo MONGODB_URL is not set >&2; exit 2\n")
    result = client.run("bash -s", timeout_seconds=30, stdin=start_script(plan, "all"))
    assert not result.is_success
    assert "MONGODB_URL is not set" in result.stderr
