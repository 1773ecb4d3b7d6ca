"""The training stage: parameters from the run, the work from `training.lora`.

torch is imported when the stage runs, never before: the supervisor and the command line know the stage by name.
"""

from __future__ import annotations

from importlib.util import find_spec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Context, Stage
from pod_worker.training.params import complete, parse

LIBRARIES = ("torch", "transformers", "peft")


def parse_params(params: dict[str, Json]) -> dict[str, Json]:
    """The same parameters, checked and complete.

    Raises RunError(INVALID_INPUT) that lists every problem.
    """
    return complete(params)


def run_finetune(context: Context) -> dict[str, Json]:
    params = parse(context.run.params)
    check_libraries()
    from pod_worker.training.lora import finetune

    return finetune(context, params)


def check_libraries() -> None:
    """Raises RunError(ENVIRONMENT) that names each missing training library.

    The message also names the command that installs it.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"This machine cannot train a model, because these packages are not installed: {', '.join(missing)}. "
            "Fix: make train (or: pip install -e '.[train]').",
        )


FINETUNE = Stage("training", run_finetune)
