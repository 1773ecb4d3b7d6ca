"""Estimates pi by random points: parameters, one stage, and the pipeline that names both."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pod_worker.core.payload import StageMetric, StageProgress
from pod_worker.core.stage import ArtifactKind, Context, Stage
from pod_worker.parameters import read_params
from pod_worker.pipeline import Pipeline

ROUND_POINTS = 10_000


class PiParams(msgspec.Struct, frozen=True, kw_only=True):
    points: Annotated[int, Meta(ge=1, le=10**9, description="random points in the unit square")] = 100_000
    seed: Annotated[int, Meta(ge=0, description="of the random points")] = 0


def check_params(params: dict[str, Any]) -> dict[str, Any]:
    """Called when a run is submitted. Raises RunError(INVALID_INPUT) that lists every problem."""
    return msgspec.structs.asdict(read_params(PiParams, params, "estimate-pi parameters"))


def estimate(context: Context) -> dict[str, Any]:
    """Continues where the last attempt stopped: the state is saved after each round."""
    params = msgspec.convert(context.run.params, PiParams)
    state = context.saved_state or {"points": 0, "hits": 0}
    points, hits = state["points"], state["hits"]
    while points < params.points:
        context.stop.check()  # a cancel or a drain ends the run here
        rng = random.Random(params.seed * 1_000_003 + points)
        count = min(ROUND_POINTS, params.points - points)
        hits += sum(rng.random() ** 2 + rng.random() ** 2 < 1 for _ in range(count))
        points += count
        context.checkpoint({"points": points, "hits": hits})
        context.emit(StageMetric(stage=context.stage, name="pi", value=4 * hits / points, step=points))
        context.emit(StageProgress(stage=context.stage, progress=points / params.points))
    result = context.work_dir / "pi.json"
    result.write_text(json.dumps({"pi": 4 * hits / points, "points": points}))
    context.artifacts.publish(result, ArtifactKind.REPORT)
    return {"pi": 4 * hits / points}


PIPELINE = Pipeline(
    name="estimate-pi",
    summary="Estimate pi by random points.",
    check_params=check_params,
    stages=lambda _params: (Stage("sampling", estimate),),
    params=PiParams,
    units={"points": "points"},
    modes=("all", "experiment"),
)
