"""The environment variables of a job's programs.

A later group replaces an earlier one: the worker's allow-list, defaults, `envs`, secrets, and what only the worker
knows. No variable of the worker itself is passed, except the tag by which it finds processes of a run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from pod_worker.command.execution.folders import JobFolders
from pod_worker.core.credentials.secret import is_secret_name
from pod_worker.core.run import Run

# worker.attempt_tag: without them, a process that hid from a killed guard could not be found.
TAGS = ("POD_WORKER_ATTEMPT_TAG", "POD_WORKER_WORK_ROOT")
LOOPBACK = "127.0.0.1"


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """What a job receives of this process's environment.

    No secret such as HF_TOKEN: a job names those that it needs.
    """
    return {
        name: value
        for name, value in env.items()
        if name in TAGS or not (name.startswith("POD_WORKER_") or is_secret_name(name))
    }


def setup_environment(env: Mapping[str, str], envs: Mapping[str, str]) -> dict[str, str]:
    """The variables of `setup`: no secret, because its result is kept for other runs."""
    return {**inherited(env), **_defaults(), **envs}


def job_environment(
    env: Mapping[str, str],
    run: Run,
    folders: JobFolders,
    *,
    envs: Mapping[str, str],
    secrets: Mapping[str, str],
    gpus: int,
    is_resumed: bool,
) -> dict[str, str]:
    """The variables of the command."""
    return {
        **inherited(env),
        **_defaults(),
        **torchrun_variables(gpus),
        **envs,
        **secrets,
        "POD_WORKER_RUN_ID": run.id,
        "POD_WORKER_ATTEMPT": str(run.attempt),
        "POD_WORKER_EVENTS": str(folders.events),
        "POD_WORKER_STOP_FILE": str(folders.stop_file),
        "OUTPUT_DIR": str(folders.outputs),
        "CHECKPOINT_DIR": str(folders.checkpoints),
        "RESUME": "1" if is_resumed else "0",
    }


def _defaults() -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1"}  # lines are seen as they are printed


def torchrun_variables(gpus: int) -> dict[str, str]:
    """One node; a port that is free now."""
    return {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(free_port()),
        "NNODES": "1",
        "NODE_RANK": "0",
        "NPROC_PER_NODE": str(max(gpus, 1)),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def with_programs(env: Mapping[str, str], *folders: Path) -> dict[str, str]:
    """The same variables with these folders first on PATH."""
    path = os.pathsep.join([*map(str, folders), env.get("PATH") or os.defpath])
    return {**env, "PATH": path}
