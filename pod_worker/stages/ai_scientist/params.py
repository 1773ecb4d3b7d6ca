"""Parameters of a run of AI-Scientist-v2, checked at enqueue and at claim.

Where a name exists in the original, it is used: options of `launch_scientist_bfts.py`, keys of `bfts_config.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pod_worker.core.research.idea import idea_problems
from pod_worker.core.run import Json
from pod_worker.parameters import read_params


def _model(what: str) -> Any:
    return Annotated[
        str | None,
        Meta(description=f"{what}; null for `model`, or what the checkout names where that is null too"),
    ]


def _count(least: int, most: int, what: str) -> Any:
    number = Annotated[int, Meta(ge=least, le=most)]
    return Annotated[number | None, Meta(description=f"{what}; null for the value of the checkout")]


class AiScientistParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    idea: Annotated[
        dict[str, Any],
        Meta(
            description="an idea of ideation, or your own as an object with Title, Short Hypothesis, Abstract, "
            "Experiments, Risk Factors and Limitations"
        ),
    ]
    checkout: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="folder of an AI-Scientist-v2 checkout on the worker's machine",
        ),
    ]
    python: Annotated[
        str,
        Meta(
            max_length=4096,
            description="interpreter that has the checkout's requirements; empty for .venv/bin/python of the "
            "checkout, or the worker's where there is none",
        ),
    ] = ""
    code: Annotated[
        str,
        Meta(max_length=200_000, description="Python text that the first programs may start from (--load_code)"),
    ] = ""
    model: Annotated[
        str | None,
        Meta(description="language model of every step that has none of its own; null for those of the checkout"),
    ] = None
    model_code: _model("writes the programs") = None  # type: ignore[valid-type]
    model_feedback: _model("judges outputs and stages") = None  # type: ignore[valid-type]
    model_vlm: _model("looks at plots during the search") = None  # type: ignore[valid-type]
    model_report: _model("summarizes the experiments") = None  # type: ignore[valid-type]
    model_agg_plots: _model("writes the script of the final figures") = None  # type: ignore[valid-type]
    model_writeup: _model("writes the paper") = None  # type: ignore[valid-type]
    model_writeup_small: _model("looks at the figures of the paper") = None  # type: ignore[valid-type]
    model_citation: _model("chooses citations") = None  # type: ignore[valid-type]
    model_review: _model("reviews the paper") = None  # type: ignore[valid-type]
    writeup_type: Annotated[
        Literal["icbinb", "normal"], Meta(description="form of the paper: icbinb has 4 pages, normal has 8")
    ] = "icbinb"
    writeup_retries: Annotated[int, Meta(ge=1, le=20, description="attempts to write the paper")] = 3
    num_cite_rounds: Annotated[int, Meta(ge=0, le=100, description="rounds of the search for citations")] = 20
    skip_writeup: Annotated[bool, Meta(description="end after the figures, without paper and review")] = False
    skip_review: Annotated[bool, Meta(description="write the paper and do not review it")] = False
    num_workers: _count(1, 64, "programs that run at once; at most one per GPU") = None  # type: ignore[valid-type]
    stage1_max_iters: _count(1, 1_000, "programs of stage 1") = None  # type: ignore[valid-type]
    stage2_max_iters: _count(1, 1_000, "programs of stage 2") = None  # type: ignore[valid-type]
    stage3_max_iters: _count(1, 1_000, "programs of stage 3") = None  # type: ignore[valid-type]
    stage4_max_iters: _count(1, 1_000, "programs of stage 4") = None  # type: ignore[valid-type]
    num_seeds: _count(1, 64, "runs of the best program with further seeds") = None  # type: ignore[valid-type]
    num_drafts: _count(1, 50, "independent first programs") = None  # type: ignore[valid-type]
    max_debug_depth: _count(0, 20, "repairs of one program in a row") = None  # type: ignore[valid-type]
    debug_prob: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="of repairing a failed program; null for the value of the checkout"),
    ] = None
    exec_timeout: _count(1, 604_800, "time limit of one program") = None  # type: ignore[valid-type]

    @property
    def wants_paper(self) -> bool:
        return not self.skip_writeup

    @property
    def wants_review(self) -> bool:
        return self.wants_paper and not self.skip_review


UNITS = {"exec_timeout": "seconds"}
PATHS = ("checkout", "python")
CAPS = ("max_usd", "max_tokens", "max_calls")
# Names of the pipeline `experiment` and of ideation for the same settings.
OTHER_NAMES = {
    "ideaJson": "idea",
    "path": "checkout",
    "slots": "num_workers",
    "drafts": "num_drafts",
    "debug_probability": "debug_prob",
    "debug_depth": "max_debug_depth",
    "replicas": "num_seeds",
    "node_seconds": "exec_timeout",
    "timeout": "exec_timeout",
    "stage_1_iterations": "stage1_max_iters",
    "stage_2_iterations": "stage2_max_iters",
    "stage_3_iterations": "stage3_max_iters",
    "stage_4_iterations": "stage4_max_iters",
}


def parse(params: Mapping[str, Json]) -> AiScientistParams:
    """Raises RunError(INVALID_INPUT) that lists every problem."""
    return read_params(AiScientistParams, params, "ai_scientist", OTHER_NAMES, _problems)


def complete(params: Mapping[str, Json]) -> dict[str, Json]:
    """The same parameters checked, with defaults: what a run document keeps."""
    return msgspec.structs.asdict(parse(params))


def _problems(params: Mapping[str, Json]) -> Iterator[str]:
    yield from idea_problems(params)
    for name in CAPS:
        if name in params:
            yield f"AI-Scientist-v2 cannot limit its spending, so {name!r} has no effect: use --max-duration"
