"""The one schema of a job: YAML file, options and keyword arguments.

`read_job` checks everything that needs no file and no network, and names every problem at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pod_worker.command.job.words import WordError, gpu_need, size_gb
from pod_worker.command.params import OutputGlob
from pod_worker.core.duration import DurationError, duration_seconds
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.retry import retry_word_fault
from pod_worker.core.run import Json
from pod_worker.parameters import read_params

DEFAULT_DURATION_SECONDS = 86_400.0
Scalar = str | int | float | bool
Duration = str | float


class ResourceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pod must have."""

    gpu: Annotated[
        str | int, Meta(description='"H100:2", "24GB..48GB:1", "RTX 4090" or a count; empty for none')
    ] = ""
    cpus: Annotated[float | None, Meta(description="CPU cores, at least")] = None
    memory: Annotated[str | float | None, Meta(description='memory, at least: "64GB"')] = None
    disk: Annotated[str | float | None, Meta(description='free disk, at least: "200GB"')] = None


class RetrySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """After which failures the job is repeated, and how often."""

    max: Annotated[int, Meta(ge=0, le=1_000, description="repetitions after the first attempt")] = 4
    on: Annotated[list[str], Meta(description="interruption, error, oom, exit:N")] = msgspec.field(
        default_factory=lambda: ["interruption"]
    )


class AfterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs that must end well before the job starts."""

    runs: Annotated[list[str], Meta(min_length=1, description="ids or names of runs")]
    on_failure: Annotated[
        Literal["fail", "skip"], Meta(description="what the job does when one of them fails")
    ] = "fail"


class MetricSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where metrics are read from, beside $POD_WORKER_EVENTS."""

    tensorboard: Annotated[
        str, Meta(description="folder of the workdir whose TensorBoard event files are read")
    ] = ""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field may be left out but `run`."""

    run: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[list[Scalar], Meta(min_length=1)],
        Meta(description="the command: a text for `bash -euo pipefail`, or a list of program and arguments"),
    ]
    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None, Meta(description="a name to find the run by")
    ] = None
    labels: Annotated[dict[str, Scalar], Meta(description="labels to find runs by: {team: vision}")] = {}
    setup: Annotated[
        str, Meta(description="shell text that prepares the environment; cached by text and lock files")
    ] = ""
    lock_files: Annotated[
        list[str], Meta(description="files whose content decides whether `setup` runs again")
    ] = []
    workdir: Annotated[
        str | None, Meta(description="a folder, or a repository at a commit: https://host/owner/repo@COMMIT")
    ] = None
    python: Annotated[
        str | float, Meta(description='empty for the worker\'s; "venv", "3.11", "uv" or "uv:3.12"')
    ] = ""
    envs: Annotated[dict[str, Scalar], Meta(description="environment variables of setup and command")] = {}
    secrets: Annotated[
        dict[str, str | None], Meta(description="variables of the command alone; null takes yours")
    ] = {}
    resources: Annotated[ResourceSpec, Meta(description="what the pod must have: {gpu, cpus, memory, disk}")] = (
        ResourceSpec()
    )
    max_duration: Annotated[Duration, Meta(description='of one attempt: "90m", "24h"; 0 for no limit')] = (
        DEFAULT_DURATION_SECONDS
    )
    max_queue_time: Annotated[
        Duration, Meta(description='fails if no worker starts it within this time: "6h"; 0 for no limit')
    ] = 0
    retry: Annotated[RetrySpec, Meta(description="{max, on: [interruption, error, oom, exit:N]}")] = RetrySpec()
    outputs: Annotated[
        list[str | OutputGlob],
        Meta(description='files of the workdir to upload, beside $OUTPUT_DIR: "*.json" or {glob, required}'),
    ] = []
    checkpoint_dir: Annotated[str, Meta(description="folder of the workdir; empty for $CHECKPOINT_DIR")] = ""
    checkpoint_every: Annotated[Duration, Meta(description='shortest time between two snapshots: "5m"')] = 300
    keep_checkpoints: Annotated[int, Meta(ge=1, le=100, description="newest snapshots kept, 1 to 100")] = 3
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1, description="higher numbers start first")] = 0
    queue: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="another queue than `command`")
    ] = None
    after: Annotated[
        list[str] | AfterSpec | None, Meta(description="ids or names of runs, or {runs, on_failure: fail|skip}")
    ] = None
    sandbox: Annotated[bool, Meta(description="run in the sandbox: no network, no other files")] = False
    metrics: Annotated[MetricSpec, Meta(description="{tensorboard: FOLDER}")] = MetricSpec()

    @property
    def after_runs(self) -> list[str]:
        return self.after.runs if isinstance(self.after, AfterSpec) else list(self.after or [])

    @property
    def after_failure(self) -> str:
        return self.after.on_failure if isinstance(self.after, AfterSpec) else "fail"


# What other job specifications call the same thing.
OTHER_NAMES = {
    "command": "run",
    "cmd": "run",
    "script": "run",
    "entrypoint": "run",
    "env": "envs",
    "environment": "envs",
    "working_dir": "workdir",
    "resource": "resources",
    "gpus": "resources",
    "gpu": "resources",
    "accelerators": "resources",
    "timeout": "max_duration",
    "depends_on": "after",
    "needs": "after",
    "job_recovery": "retry",
    "retries": "retry",
    "output": "outputs",
    "artifacts": "outputs",
    "tags": "labels",
}


def read_job(fields: Mapping[Any, Json]) -> JobSpec:
    """Raises RunError(INVALID_INPUT) that lists every problem and its fix.

    `commands` is another name of `run`; a list of texts becomes one script.
    """
    given = dict(fields)
    if True in given:  # YAML 1.1 reads the key `on` as a boolean; here it can only be a misplaced `retry.on`
        raise RunError(FailureCode.INVALID_INPUT, "job: 'on' belongs below 'retry': write retry: {on: [error]}")
    retry = given.get("retry")
    if isinstance(retry, dict) and True in retry:
        given["retry"] = {("on" if key is True else key): value for key, value in retry.items()}
    if "commands" in given and "run" not in given:
        commands = given.pop("commands")
        given["run"] = "\n".join(map(str, commands)) if isinstance(commands, list) else commands
    return read_params(JobSpec, given, "job", OTHER_NAMES, _problems)


def job_schema() -> dict[str, Json]:
    """JSON Schema (2020-12) of a job file, for editors."""
    schema: dict[str, Json] = msgspec.json.schema(JobSpec)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pod_worker job"} | schema


def _problems(fields: Mapping[str, Json]) -> Iterator[str]:
    """What the types alone do not say; values of a wrong type are reported elsewhere."""
    for name in ("max_duration", "max_queue_time", "checkpoint_every"):
        if isinstance(value := fields.get(name, 0), str | int | float):
            yield from _word_problem(name, duration_seconds, value)
    resources = fields.get("resources")
    if isinstance(resources, dict):
        if resources.get("gpu"):
            yield from _word_problem("resources.gpu", gpu_need, resources["gpu"])
        for name in ("memory", "disk"):
            if resources.get(name) is not None:
                yield from _word_problem(f"resources.{name}", size_gb, resources[name])
        cpus = resources.get("cpus")
        if isinstance(cpus, int | float) and not 0 < cpus <= 4096:
            yield f"'resources.cpus' is {cpus}: give a number of cores"
    retry = fields.get("retry")
    if isinstance(retry, dict) and isinstance(retry.get("on"), list):
        yield from (f"'retry.on' {fault}" for word in retry["on"] if (fault := retry_word_fault(str(word))))
    for name in ("labels", "envs", "secrets"):
        if isinstance(fields.get(name), dict):
            yield from (
                f"{name!r} has the key {key!r:.60}, which YAML reads as {type(key).__name__}: put it in quotes"
                for key in fields[name]
                if not isinstance(key, str)
            )


def _word_problem(name: str, read: Any, value: Json) -> Iterator[str]:
    try:
        read(value)
    except (WordError, DurationError) as error:
        yield f"{name!r} {error}"
