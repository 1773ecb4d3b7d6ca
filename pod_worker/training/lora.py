"""Fine-tunes a causal language model with LoRA: the steps, in order.

The steps lead from parameters to the published adapter.

Logs at the start what it will do and why. Each step is in a module of its own; this one knows only their order.
Nothing is published before the training is complete.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import torch

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Context
from pod_worker.training.checkpoints.checkpoint import hash_file
from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
from pod_worker.training.data import dataset
from pod_worker.training.data.batches import BatchPlan
from pod_worker.training.data.dataset import Dataset, RawDataset
from pod_worker.training.hardware import Capabilities, detect_capabilities, plan_execution, without_packing
from pod_worker.training.library_logs import redirect_library_logs
from pod_worker.training.loop import TrainingLoop, TrainingTask
from pod_worker.training.model.base_model import adapter_weights, check_vocabulary, load_model, load_tokenizer
from pod_worker.training.model.hub import locate
from pod_worker.training.model.model_support import packing_problem, read_support
from pod_worker.training.params import TrainingParams
from pod_worker.training.results import publish
from pod_worker.training.schedule import total_steps

# What may differ between two attempts without making the first one's numbers wrong.
RESUMABLE_CHANGES = frozenset(
    {"log_every", "eval_every", "checkpoint_every_steps", "checkpoint_every_minutes", "keep_checkpoints"}
    | {"epochs", "max_steps", "dataset", "eval_dataset", "threads"}
)


def finetune(context: Context, params: TrainingParams, clock: Clock | None = None) -> dict[str, Json]:
    """Train, publish adapter, model card and report, and return the summary.

    Raises RunError for everything that a user or operator can fix, and Interruption when the run must stop.
    """
    with redirect_library_logs(lambda message, level: context.log(message, level)):
        task, data = prepare(context, params)
        checkpoints = CheckpointStore(context, params.keep_checkpoints)
        progress = TrainingLoop(task, context, checkpoints, clock or SystemClock()).run()
        return {**publish(context, task, data, progress), "checkpoints": checkpoints.kept()}


def prepare(context: Context, params: TrainingParams) -> tuple[TrainingTask, Dataset]:
    """Everything up to the first step.

    What is cheap to check comes first: the model is loaded last.
    """
    if params.threads:
        torch.set_num_threads(params.threads)
    machine = detect_capabilities()
    plan_execution(params, machine)  # refuses what the machine lacks before anything is downloaded
    raw = dataset.read(context, params)
    folder = locate(params.model, params.revision, context.stop.check)
    execution = plan_execution(params, machine, read_support(folder, params.model))
    config = read_config(folder, params.model)
    tokenizer = load_tokenizer(folder, params.model)
    max_length = min(params.max_length, position_limit(config) or params.max_length)
    data = dataset.encode_all(raw, tokenizer, max_length, context.stop.check)
    model = load_model(folder, params, execution)
    check_vocabulary(tokenizer, model, params.model)
    if execution.packed and (problem := packing_problem(model)):
        if params.packing == "packed":
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"model {params.model!r} cannot be packed: {problem}. Use packing=group.",
            )
        execution = without_packing(execution, problem)
    plan = BatchPlan(
        tuple(len(example) for example in data.training.examples),
        params.rows_per_step,
        params.seed,
        by_length=params.packing != "packed",  # not of the machine: an attempt elsewhere takes the same steps
    )
    task = TrainingTask(
        params,
        execution,
        model,
        data.training.examples,
        data.held_out.examples,
        plan,
        total_steps(params, plan.steps_per_epoch),
        fingerprint(params, raw, folder),
    )
    _announce(context, task, data, machine, max_length)
    return task, data


def read_config(folder: Path, name: str) -> dict[str, Json]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            FailureCode.INVALID_INPUT, f"config.json of model {name!r} cannot be read: {error}"
        ) from error
    if not isinstance(config, dict):
        raise RunError(FailureCode.INVALID_INPUT, f"config.json of model {name!r} is not a JSON object")
    return config


def position_limit(config: dict[str, Json]) -> int | None:
    """How many tokens the model can place, where it says so."""
    places = (config, config.get("text_config") or {})
    found = (place.get(name) for place in places for name in ("max_position_embeddings", "n_positions"))
    return next((limit for limit in found if isinstance(limit, int)), None)


def fingerprint(params: TrainingParams, raw: RawDataset, folder: Path) -> dict[str, str]:
    """What must be equal for a checkpoint to belong to this training, by name."""
    fields = {
        name: json.dumps(value)
        for name, value in msgspec.structs.asdict(params).items()
        if name not in RESUMABLE_CHANGES
    }
    weights = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.suffix != ".json")
    identity = hash_file(folder / "config.json") + json.dumps(weights)
    return {**fields, "data set": raw.sha256, "model files": hashlib.sha256(identity.encode()).hexdigest()}


def _announce(context: Context, task: TrainingTask, data: Dataset, machine: Capabilities, max_length: int) -> None:
    params, execution, training = task.params, task.execution, data.training
    trainable = sum(weight.numel() for weight in adapter_weights(task.model).values())
    frozen = sum(weight.numel() for weight in task.model.parameters()) - trainable
    tokens = sum(len(example) for example in training.examples)
    context.log(
        f"fine-tuning {params.model} with {params.method} of rank {params.rank} on {machine.name}: "
        f"{task.total} steps of {params.rows_per_step} rows, {execution.precision}, {execution.attention}",
        model=params.model,
        trainable_parameters=trainable,
        frozen_parameters=frozen,
        rows=len(training.examples),
        held_out_rows=len(task.held_out),
        tokens=tokens,
        loss_tokens=training.loss_tokens,
        device=execution.device,
        precision=execution.precision,
        attention=execution.attention,
        threads=torch.get_num_threads(),
    )
    for reason in execution.reasons:
        context.log(reason)
    if max_length < params.max_length:
        context.log(f"max_length is {max_length}, not {params.max_length}: the model can place no more", "warning")
    for kind, encoded in (("training", training), ("held-out", data.held_out)):
        for warning in dataset.encoding_warnings(encoded, max_length, kind):
            context.log(warning, "warning")
