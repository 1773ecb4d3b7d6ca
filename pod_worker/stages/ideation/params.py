"""The parameters of an ideation run, checked at enqueue and when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.ideation import (
    CONTEXT_LIMIT,
    DEFAULT_GENERATIONS,
    DEFAULT_REFLECTIONS,
    GENERATIONS_LIMIT,
    HYPOTHESIS_LIMIT,
    REFLECTIONS_LIMIT,
    TITLE_LIMIT,
)
from pod_worker.core.run import Json
from pod_worker.parameters import read_params


class IdeationParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    idea: Annotated[
        str,
        Meta(min_length=1, max_length=HYPOTHESIS_LIMIT, description="the hypothesis in words: what to find out"),
    ]
    title: Annotated[str, Meta(max_length=TITLE_LIMIT, description="title of the hypothesis")] = ""
    context: Annotated[
        str,
        Meta(max_length=CONTEXT_LIMIT, description="what the model should know besides, such as earlier results"),
    ] = ""
    hypothesis_id: Annotated[
        str, Meta(max_length=200, description="the stored hypothesis that gets the ideas")
    ] = ""
    reflections: Annotated[
        int, Meta(ge=1, le=REFLECTIONS_LIMIT, description="rounds of criticism of each idea, at most")
    ] = DEFAULT_REFLECTIONS
    max_num_generations: Annotated[
        int, Meta(ge=1, le=GENERATIONS_LIMIT, description="ideas to write, at most")
    ] = DEFAULT_GENERATIONS
    prior_titles: Annotated[
        list[Annotated[str, Meta(max_length=20_000)]],
        Meta(max_length=100, description="titles of ideas that must not be repeated"),
    ] = []
    tasks: Annotated[
        list[str], Meta(max_length=50, description="tasks that an idea may choose; empty for all shipped ones")
    ] = []
    literature: Annotated[
        Literal["auto", "openalex", "semantic_scholar", "recorded", "none"],
        Meta(
            description="index of published works that ideas are compared with; auto: openalex, or recorded "
            "works for the scripted model"
        ),
    ] = "auto"
    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="the language model; `scripted` answers without one, `default` is the worker's",
        ),
    ] = "default"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="of the scripted model")] = 0
    max_usd: Annotated[float, Meta(ge=0, le=1e6, description="spent on language models, over all attempts")] = 2.0
    max_tokens: Annotated[int, Meta(ge=0, le=10**12, description="read and written by language models")] = (
        2_000_000
    )
    max_calls: Annotated[int, Meta(ge=0, le=10**9, description="calls of language models")] = 500


UNITS = {"max_usd": "US dollars", "max_tokens": "tokens"}


def parse(params: Mapping[str, Json]) -> IdeationParams:
    """Raises RunError(INVALID_INPUT) that lists every problem."""
    found = read_params(IdeationParams, params, "ideation")
    if not found.idea.strip():
        raise RunError(FailureCode.INVALID_INPUT, "ideation: 'idea' is empty: give the hypothesis in words")
    return found


def complete(params: Mapping[str, Json]) -> dict[str, Json]:
    """The same parameters checked, with defaults: what a run document keeps."""
    return msgspec.structs.asdict(parse(params))
