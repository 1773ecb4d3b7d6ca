"""What a job's programs find in their environment, and what they never find there."""

from __future__ import annotations

import socket
from pathlib import Path

from pod_worker.command.execution.environment import job_environment, setup_environment, with_programs
from pod_worker.command.execution.folders import JobFolders
from pod_worker.core.run import Run, RunStatus

RUN = Run("r7", "command", "command", RunStatus.RUNNING, {}, attempt=2)
OURS = {
    "PATH": "/usr/bin",
    "HF_TOKEN": "hf",
    "POD_WORKER_ATTEMPT_TAG": "r7/2",
    "POD_WORKER_WORK_ROOT": "/data",
    "POD_WORKER_UPLINK_FD": "5",
}


def variables(folder: Path, **more: object) -> dict[str, str]:
    given = {"envs": {}, "secrets": {}, "gpus": 0, "is_resumed": False} | more
    return job_environment(OURS, RUN, JobFolders(folder, "ckpt"), **given)  # type: ignore[arg-type]


def test_a_job_knows_its_run_its_folders_and_its_attempt(tmp_path: Path) -> None:
    found = variables(tmp_path, is_resumed=True)
    assert found["POD_WORKER_RUN_ID"] == "r7"
    assert found["POD_WORKER_ATTEMPT"] == "2"
    assert found["OUTPUT_DIR"] == str(tmp_path / "outputs")
    assert found["CHECKPOINT_DIR"] == str(tmp_path / "work" / "ckpt")
    assert found["RESUME"] == "1"
    assert found["PYTHONUNBUFFERED"] == "1"
    assert variables(tmp_path)["RESUME"] == "0"


def test_a_later_group_replaces_an_earlier_one(tmp_path: Path) -> None:
    found = variables(
        tmp_path, envs={"PATH": "/mine", "MASTER_PORT": "1", "PYTHONUNBUFFERED": ""}, secrets={"K": "s"}
    )
    assert (found["PATH"], found["MASTER_PORT"], found["PYTHONUNBUFFERED"], found["K"]) == ("/mine", "1", "", "s")


def test_torchrun_finds_one_node_and_a_free_port(tmp_path: Path) -> None:
    found = variables(tmp_path, gpus=4)
    assert (found["NNODES"], found["NODE_RANK"], found["NPROC_PER_NODE"]) == ("1", "0", "4")
    assert variables(tmp_path)["NPROC_PER_NODE"] == "1"
    with socket.create_server((found["MASTER_ADDR"], int(found["MASTER_PORT"]))):
        pass


def test_only_the_tags_of_the_workers_variables_are_passed(tmp_path: Path) -> None:
    found = variables(tmp_path)
    assert found["POD_WORKER_ATTEMPT_TAG"] == "r7/2"
    assert "POD_WORKER_UPLINK_FD" not in found


def test_a_job_gets_the_secrets_that_it_asked_for_alone(tmp_path: Path) -> None:
    assert "HF_TOKEN" not in variables(tmp_path)
    assert variables(tmp_path, secrets={"HF_TOKEN": "mine"})["HF_TOKEN"] == "mine"


def test_setup_gets_envs_and_no_secret() -> None:
    found = setup_environment(OURS, {"EXTRA": "dev", "MY_TOKEN": "given in clear"})
    assert "HF_TOKEN" not in found
    assert found["EXTRA"] == "dev"
    assert found["MY_TOKEN"] == "given in clear"


def test_folders_come_first_on_the_path(tmp_path: Path) -> None:
    assert with_programs({"PATH": "/usr/bin"}, tmp_path)["PATH"] == f"{tmp_path}:/usr/bin"
    assert with_programs({}, tmp_path)["PATH"].startswith(f"{tmp_path}:/")
