"""From job specs to runs: parameters, requirements, secrets, dependencies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.command.job.spec import JobSpec
from pod_worker.command.job.words import duration_seconds, gpu_need, size_gb
from pod_worker.command.params import PIPELINE, OutputGlob, complete
from pod_worker.core.run import AfterFailure, Json, Requirements
from pod_worker.store.queue.run_request import RunRequest
from pod_worker.store.views.read_models import ReadModels

if TYPE_CHECKING:
    from pod_worker.cli.run.workdir import PlannedWorkdir


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
    """The values to seal. Raises CommandError for one that is missing."""
    missing = [name for name, value in spec.secrets.items() if value is None and name not in variables]
    if missing:
        raise CommandError(
            f"secrets without a value: {', '.join(missing)}. Set them in your environment: export {missing[0]}=…",
            ExitCode.USAGE,
        )
    return {name: variables[name] if value is None else value for name, value in spec.secrets.items()}


def requests_of(
    jobs: Sequence[PlannedJob], store: StoreSession, sealed_secrets: Mapping[str, str]
) -> list[RunRequest]:
    """Raises CommandError for a dependency that does not exist."""
    from ulid import ULID

    models = ReadModels(store.database)
    return [_request(job, str(ULID()), _dependencies(job.spec, models), dict(sealed_secrets)) for job in jobs]


def _request(job: PlannedJob, run_id: str, after: tuple[str, ...], sealed_secrets: dict[str, str]) -> RunRequest:
    spec = job.spec
    return RunRequest(
        id=run_id,
        pipeline=PIPELINE,
        params=job.params,
        queue=spec.queue,
        priority=spec.priority,
        max_attempts=spec.retry.max + 1,
        requirements=requirements_of(spec),
        labels=job.labels,
        name=spec.name,
        after=after,
        after_failure=AfterFailure(spec.after_failure),
        max_queue_seconds=duration_seconds(spec.max_queue_time) or None,
        max_duration_seconds=duration_seconds(spec.max_duration) or None,
        retry_on=tuple(spec.retry.on),
        sealed_secrets=sealed_secrets,
    )


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


def _dependencies(spec: JobSpec, models: ReadModels) -> tuple[str, ...]:
    from pod_worker.cli.runs.lookup import resolve_ids

    return tuple(resolve_ids(models, spec.after_runs))


def job_folder(job_file: Path | None) -> Path:
    """What a relative `workdir` is relative to: the folder of the job file."""
    return job_file.resolve().parent if job_file else Path.cwd()


def _text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
