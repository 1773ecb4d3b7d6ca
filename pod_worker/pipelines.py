"""PIPELINES: the name of a pipeline -> its parameter check and its stages.

To add one: an entry here, or an entry point of another package (`pipeline_plugins`). A pipeline that is in
neither is refused when it is enqueued and never claimed. Nothing heavy is imported: stages import what they need
when they run.
"""

from __future__ import annotations

from pod_worker.command import params as command_params
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.pipeline import Pipeline
from pod_worker.pipeline_plugins import load_plugins
from pod_worker.stages import command, finetune, synthetic
from pod_worker.stages.ai_scientist import params as ai_scientist_params
from pod_worker.stages.ai_scientist import stage as ai_scientist
from pod_worker.stages.ideation import params as ideation_params
from pod_worker.stages.ideation import stage as ideation
from pod_worker.stages.research import experiment
from pod_worker.stages.research import params as experiment_params
from pod_worker.training import params as training_params

_OWN: dict[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            "training",
            "Fine-tune a causal language model with LoRA on a JSONL data set.",
            finetune.parse_params,
            lambda _params: (finetune.FINETUNE,),
            training_params.TrainingParams,
            training_params.UNITS,
            training_params.PATHS,
        ),
        Pipeline(
            "ideation",
            "Write research ideas for a hypothesis: rounds of proposal and criticism, with a literature search.",
            ideation_params.complete,
            ideation.stages_of,
            ideation_params.IdeationParams,
            ideation_params.UNITS,
            asks_models=True,
        ),
        Pipeline(
            "experiment",
            "Test an idea: tree search over model-written programs that are executed, plots, paper, review.",
            experiment_params.complete,
            experiment.stages_of,
            experiment_params.ExperimentParams,
            experiment_params.UNITS,
            experiment_params.PATHS,
            asks_models=True,
            needs_sandbox=lambda _params: True,
            ends_in_review=True,
        ),
        Pipeline(
            ai_scientist.NAME,
            "Run a checkout of AI-Scientist-v2 on an idea, with its own search, paper and review.",
            ai_scientist_params.complete,
            ai_scientist.stages_of,
            ai_scientist_params.AiScientistParams,
            ai_scientist_params.UNITS,
            ai_scientist_params.PATHS,
            asks_models=True,
            executes_user_code=True,
            ends_in_review=True,
        ),
        Pipeline(
            command_params.PIPELINE,
            "Run a command of your own: any script or program, with its working directory.",
            command_params.complete,
            lambda _params: (command.COMMAND,),
            command_params.CommandParams,
            command_params.UNITS,
            executes_user_code=True,
            needs_sandbox=lambda params: bool(params.get("sandbox")),
            sandbox_modules=("json",),
        ),
        Pipeline(
            "synthetic",
            "Test load: stages that wait, emit events, publish artifacts and fail on request.",
            synthetic.parse_params,
            synthetic.stages_of,
            synthetic.SyntheticParams,
            synthetic.UNITS,
        ),
    )
}

_PLUGINS, PLUGIN_FAULTS = load_plugins(_OWN)
PIPELINES: dict[str, Pipeline] = _OWN | _PLUGINS

# What each worker mode claims, in order of preference. `ideation` comes first in hybrid: experiments wait for
# ideas, never the other way round. Any pod with a GPU can execute a command, after the work of its own kind. An
# `ideation` pod has the keys of language models and a small machine, so it takes none. The synthetic queue is for
# trials and belongs to every kind of pod.
_OWN_MODES: dict[str, tuple[str, ...]] = {
    "experiment": ("experiment", "ai_scientist", "command", "synthetic"),
    "ideation": ("ideation",),
    "hybrid": ("ideation", "experiment", "ai_scientist", "command", "synthetic"),
    "training": ("training", "command", "synthetic"),
    "all": ("ideation", "experiment", "ai_scientist", "training", "command", "synthetic"),
}
MODES: dict[str, tuple[str, ...]] = {
    mode: (*queues, *(each.name for each in _PLUGINS.values() if mode in each.modes))
    for mode, queues in _OWN_MODES.items()
}


def find_pipeline(name: str) -> Pipeline:
    """Raises RunError(INVALID_INPUT) naming what there is.

    RunError(ENVIRONMENT): it is in a package that cannot be used on this machine.
    """
    if name not in PIPELINES:
        if fault := next((fault for fault in PLUGIN_FAULTS if fault.name == name), None):
            raise RunError(FailureCode.ENVIRONMENT, fault.message)
        known = ", ".join(sorted(PIPELINES))
        planned = {queue for queues in MODES.values() for queue in queues} - PIPELINES.keys()
        reason = "is not part of this version" if name in planned else "does not exist"
        raise RunError(FailureCode.INVALID_INPUT, f"pipeline {name!r} {reason}; there is: {known}")
    return PIPELINES[name]
