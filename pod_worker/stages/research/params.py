"""The parameters of an experiment run, checked at enqueue and again at claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pod_worker.core.failure import RunError
from pod_worker.core.research.idea import idea_problems
from pod_worker.core.run import Json
from pod_worker.parameters import read_params
from pod_worker.sandbox.named_hosts import host_problem
from pod_worker.tasks.catalogue import find_task


def _iterations(what: str) -> Any:
    return Annotated[int, Meta(ge=1, le=1_000, description=f"nodes that a model may write in {what}")]


class ExperimentParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    idea: Annotated[
        dict[str, Any],
        Meta(
            description="an idea of ideation, or your own as an object with Title, Short Hypothesis, Abstract, "
            "Experiments, Risk Factors and Limitations"
        ),
    ]
    task: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="name of a shipped task, a folder with task.yaml, or its key data/.../",
        ),
    ] = "digits"
    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="the language model; `scripted` answers without one, `default` is the worker's",
        ),
    ] = "default"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="of splits, search and node programs")] = 0
    split_key: Annotated[
        str,
        Meta(
            max_length=256,
            description="makes the split of the data unguessable; empty for the run's id, "
            "the id of another run to repeat its split",
        ),
    ] = ""
    max_usd: Annotated[float, Meta(ge=0, le=1e6, description="spent on language models, over all attempts")] = 20.0
    max_tokens: Annotated[int, Meta(ge=0, le=10**12, description="read and written by language models")] = (
        20_000_000
    )
    max_calls: Annotated[int, Meta(ge=0, le=10**9, description="calls of language models")] = 2_000
    max_hours: Annotated[float, Meta(gt=0, le=8784, description="wall time of all attempts together")] = 48.0
    slots: Annotated[
        int, Meta(ge=0, le=64, description="programs that run at once; 0 for one per GPU, or one without a GPU")
    ] = 0
    stage_1_iterations: _iterations("stage 1, preliminary investigation") = 20  # type: ignore[valid-type]
    stage_2_iterations: _iterations("stage 2, baseline tuning") = 12  # type: ignore[valid-type]
    stage_3_iterations: _iterations("stage 3, research agenda") = 12  # type: ignore[valid-type]
    stage_4_iterations: _iterations("stage 4, ablation studies") = 18  # type: ignore[valid-type]
    drafts: Annotated[int, Meta(ge=1, le=50, description="independent first programs")] = 3
    debug_probability: Annotated[
        float, Meta(ge=0, le=1, description="of repairing a failed program before improving the best one")
    ] = 0.5
    debug_depth: Annotated[int, Meta(ge=0, le=20, description="repairs of one program in a row")] = 3
    replicas: Annotated[
        int, Meta(ge=2, le=20, description="runs of the best program with further seeds, for intervals")
    ] = 3
    executor: Annotated[
        Literal["one-shot", "agent"],
        Meta(
            description="who writes a program: one call of the model, or an agent that writes files, runs them in "
            "the sandbox and reads their output"
        ),
    ] = "one-shot"
    agent_turns: Annotated[
        int, Meta(ge=2, le=100, description="model calls that an agent may make for one program, at most")
    ] = 12
    node_seconds: Annotated[float, Meta(ge=1, le=7 * 86_400, description="time limit of one program")] = 3600.0
    node_memory_gb: Annotated[
        float, Meta(ge=0, le=4096, description="memory limit of one program; 0 for none")
    ] = 0.0
    node_disk_gb: Annotated[float, Meta(gt=0, le=4096, description="disk limit of one program")] = 10.0
    hosts: Annotated[
        list[Annotated[str, Meta(max_length=260)]],
        Meta(
            max_length=50,
            description="hosts that programs may reach, as NAME (port 443) or NAME:PORT; empty for no network",
        ),
    ] = []
    literature: Annotated[
        Literal["auto", "openalex", "semantic_scholar", "recorded", "none"],
        Meta(description="index of published works that the paper may cite"),
    ] = "auto"
    page_limit: Annotated[int, Meta(ge=1, le=40, description="pages of the paper, without references")] = 4
    reviews: Annotated[int, Meta(ge=1, le=9, description="independent reviews of the paper")] = 3


UNITS = {
    "max_usd": "US dollars",
    "max_tokens": "tokens",
    "max_hours": "hours",
    "node_seconds": "seconds",
    "node_memory_gb": "GB",
    "node_disk_gb": "GB",
    "page_limit": "pages",
}
PATHS = ("task",)
FIELDS = {each.name: each for each in msgspec.structs.fields(ExperimentParams)}
# The names that AI-Scientist-v2 uses for the same settings.
OTHER_NAMES = {
    "num_drafts": "drafts",
    "debug_prob": "debug_probability",
    "max_debug_depth": "debug_depth",
    "num_workers": "slots",
    "num_seeds": "replicas",
    "ideaJson": "idea",
    "timeout": "node_seconds",
}


def parse(params: Mapping[str, Json]) -> ExperimentParams:
    """Raises RunError(INVALID_INPUT) that lists every problem."""
    return read_params(ExperimentParams, params, "experiment", OTHER_NAMES, _problems)


def complete(params: Mapping[str, Json]) -> dict[str, Json]:
    """The same parameters checked, with defaults: what a run document keeps."""
    return msgspec.structs.asdict(parse(params))


def _problems(params: Mapping[str, Json]) -> Iterator[str]:
    yield from idea_problems(params)
    hosts = params.get("hosts")
    for host in hosts if isinstance(hosts, list) else ():
        if isinstance(host, str) and (problem := host_problem(host)):
            yield f"'hosts': {problem}"
    task = params.get("task")
    # Only the worker can look at a path; commands make one of a folder's name.
    if isinstance(task, str) and task and "/" not in task:
        try:
            find_task(task)
        except RunError as error:
            yield error.message
