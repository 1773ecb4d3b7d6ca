"""The training stage: parameters from the run, the work from `training.lora`.

torch is imported when the stage runs, never before: the supervisor and the command line know the stage by name.
"""

from __future__ import annotations

from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage
from pod_worker.training.params import complete, parse


def parse_params(params: dict[str, Json]) -> dict[str, Json]:
    """The same parameters, checked and complete. Raises RunError(INVALID_INPUT) that lists every problem."""
    return complete(params)


def run_finetune(context: Context) -> dict[str, Json]:
    params = parse(context.run.params)
    from pod_worker.training.lora import finetune

    return finetune(context, params)


FINETUNE = Stage("training", run_finetune)
