"""A command through real workers: killed, drained, failed, and without a secret."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

from tests.acceptance.local_stack import Running, wait_for

# All that a job can see of its own process, its parents and their descriptors.
LOOK = """
env | grep -v '^ENVIRON=' ; for pid in $$ $PPID; do
  cat /proc/$pid/environ /proc/$pid/cmdline 2>/dev/null | tr '\\0' '\\n' || true
  ls -l /proc/$pid/fd 2>/dev/null || true
  grep -a . /proc/$pid/mem 2>/dev/null | head -c 10 || true
done
ls -l /proc/self/fd
"""


def output_of(running: Running, run_id: str) -> str:
    return "\n".join(
        event["data"]["message"] for event in running.db.events.find({"runId": run_id, "type": "ai.run.log"})
    )


def test_a_drain_gives_the_job_its_time_and_costs_it_nothing(running: Running) -> None:
    job = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1 || true; done"
    run_id = running.submit("command", {"run": job})
    with running.worker("drained") as worker:
        wait_for(lambda: "ready" in output_of(running, run_id), "the job to start")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 143
    run = running.wait_status(run_id, "QUEUED")
    assert (run["retryCount"], run["crashCount"]) == (0, 0)
    wait_for(lambda: "saved" in output_of(running, run_id), "the last words of the job")


def _venv_line(running: Running, run_id: str) -> str | None:
    text = output_of(running, run_id)
    return text if ".environments/" in text else None


def test_setup_is_prepared_once_by_the_user_of_runs(running: Running) -> None:
    job = {"setup": "echo prepared > made", "run": "cat made; python -c 'import pod_worker'; echo $VIRTUAL_ENV"}
    with running.worker("prepared"):
        for how in ("prepared in", "from the cache"):
            run_id = running.submit("command", job)
            running.wait_status(run_id, "COMPLETED")
            text = wait_for(partial(_venv_line, running, run_id), "the output")
            assert how in text


def test_a_failure_has_the_exit_code_and_the_end_of_the_output(running: Running) -> None:
    failed = running.submit(
        "command", {"run": "echo 'RuntimeError: CUDA out of memory. Tried to allocate'; exit 1"}
    )
    with running.worker("failing"):
        run = running.wait_status(failed, "FAILED")
    assert run["errorCode"] == "CUDA_OOM"
    assert "exit code 1" in run["errorMessage"]


def test_a_job_finds_no_secret_of_its_worker(running: Running) -> None:
    canary = {"OPENAI_API_KEY": "canary-openai-0123456789", "RUNPOD_API_KEY": "canary-runpod-0123456789"}
    run_id = running.submit("command", {"run": LOOK})
    with running.worker("seen", **canary):
        running.wait_status(run_id, "COMPLETED", "FAILED")
        wait_for(lambda: "POD_WORKER_RUN_ID" in output_of(running, run_id), "the output")
        text = output_of(running, run_id)
    assert "canary" not in text
    assert "***" not in text, "a secret was there, masked"
    assert running.local.token not in text
    assert "mongodb://" not in text


FOUR_GPUS = """\
from types import SimpleNamespace

class NVMLError(Exception):
    pass

nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 4
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda gpu: "NVIDIA H100"
nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(total=80 << 30, used=0)
nvmlDeviceGetUtilizationRates = lambda gpu: SimpleNamespace(gpu=0)
nvmlDeviceGetTemperature = lambda gpu, sensor: 30
nvmlDeviceGetPowerUsage = lambda gpu: 100_000
"""


def test_a_worker_of_a_part_of_the_pod_shows_its_runs_these_gpus(running: Running, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(FOUR_GPUS)
    run_id = running.submit("command", {"run": "echo gpus=$CUDA_VISIBLE_DEVICES"})
    environment = {"POD_WORKER_REQUIRED_GPUS": "0", "PYTHONPATH": str(tmp_path)}
    with running.worker("part", "--gpus", "1,3", **environment):
        wait_for(lambda: "gpus=1,3" in output_of(running, run_id), "the output")
