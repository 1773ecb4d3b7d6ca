"""From job specs to what is queued: parameters, requirements, secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pod_worker.command.job.spec import JobSpec
from pod_worker.command.job.words import gpu_need, size_gb
from pod_worker.command.params import OutputGlob, complete
from pod_worker.core.duration import duration_seconds
from pod_worker.core.run import Json, Requirements
from pod_worker.submission.errors import JobInputError

if TYPE_CHECKING:
    from pod_worker.submission.workdir import PlannedWorkdir  # brings an HTTP client


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A checked job.

    Its fields, its parameters as a run keeps them, its labels with those of a sweep.
    """

    spec: JobSpec
    params: dict[str, Json]
    labels: dict[str, str]


def plan_job(spec: JobSpec, workdir: PlannedWorkdir | None, labels: Mapping[str, str]) -> PlannedJob:
    """Raises RunError(INVALID_INPUT) that lists every problem."""
    gpu = gpu_need(spec.resources.gpu) if spec.resources.gpu else None
    params: dict[str, Json] = {
        "run": spec.run if isinstance(spec.run, str) else [_text(each) for each in spec.run],
        "setup": spec.setup,
        "lock_files": spec.lock_files,
        "workdir": workdir.reference if workdir else None,
        "source": workdir.source if workdir else None,
        "python": _text(spec.python),
        "envs": {name: _text(value) for name, value in spec.envs.items()},
        "secrets": sorted(spec.secrets),
        "gpus": gpu.count if gpu else 0,
        "outputs": [
            msgspec.to_builtins(each if isinstance(each, OutputGlob) else OutputGlob(glob=each))
            for each in spec.outputs
        ],
        "checkpoint_dir": spec.checkpoint_dir,
        "checkpoint_every": max(duration_seconds(spec.checkpoint_every), 1.0),
        "keep_checkpoints": spec.keep_checkpoints,
        "sandbox": spec.sandbox,
        "tensorboard": spec.metrics.tensorboard,
    }
    named = {name: _text(value) for name, value in spec.labels.items()}
    return PlannedJob(spec, complete(params), named | dict(labels))


def secret_values(spec: JobSpec, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values to seal. Raises JobInputError for one that is missing."""
    missing = [name for name, value in spec.secrets.items() if value is None and name not in variables]
    if missing:
        raise JobInputError(
            f"secrets without a value: {', '.join(missing)}. Set them in your environment: export {missing[0]}=…"
        )
    return {name: variables[name] if value is None else value for name, value in spec.secrets.items()}


def requirements_of(spec: JobSpec) -> Requirements:
    needs = spec.resources
    gpu = gpu_need(needs.gpu) if needs.gpu else None
    return Requirements(
        gpu=gpu.model if gpu else None,
        min_vram_gb=gpu.min_vram_gb if gpu else None,
        max_vram_gb=gpu.max_vram_gb if gpu else None,
        gpu_count=gpu.count if gpu else None,
        cpus=needs.cpus,
        memory_gb=None if needs.memory is None else size_gb(needs.memory),
        disk_gb=None if needs.disk is None else size_gb(needs.disk),
    )


def _text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
