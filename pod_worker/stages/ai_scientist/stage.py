"""The pipeline `ai_scientist`: one stage that runs the whole original program."""

from __future__ import annotations

from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage
from pod_worker.stages.ai_scientist.params import AiScientistParams, parse

NAME = "ai_scientist"


def stages_of(params: dict[str, Json]) -> tuple[Stage, ...]:
    parsed = parse(params)
    return (Stage(NAME, lambda context: _run(context, parsed)),)


def _run(context: Context, params: AiScientistParams) -> dict[str, Json]:
    # Imported by the child that runs the stage, never by the supervisor or a command.
    from pod_worker.stages.ai_scientist.attempt import run_ai_scientist

    return run_ai_scientist(context, params)
