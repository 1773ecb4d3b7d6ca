"""Rows that are whole trainings through the stage that workers run."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch

from benchmarks.gpu_check.checks import CheckContext, SkippedCheckError, WrongFigureError
from benchmarks.gpu_check.folder_context import CountedStop, FolderRun
from pod_worker.core.failure import DrainRequested, FailureCode, classify
from pod_worker.core.run import Json
from pod_worker.stages.finetune import FINETUNE
from pod_worker.training.data.demo_data import DemoData, build

STEPS = 12
MEMORY_LIMIT_BYTES = 400 * 2**20
NEARLY = 1e-3  # of the loss: kernels of a GPU may add in another order


def four_bits(context: CheckContext) -> str:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SkippedCheckError("bitsandbytes is not installed")
    context.confirm_device()
    summary = FINETUNE.run(FolderRun(context.folder / "run", _params(_material(context), method="qlora")))
    first, last = summary["loss_first"], summary["loss_last"]
    if not (math.isfinite(last) and last < first):
        raise WrongFigureError(f"the loss went from {first} to {last} in {STEPS} steps")
    return f"loss {first:.3f} to {last:.3f} in {STEPS} steps"


def out_of_memory(context: CheckContext) -> str:
    """A batch that does not fit ends as CUDA_OOM, and the hint names the parameter to lower."""
    context.need_gpu()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(MEMORY_LIMIT_BYTES / total)
    params = _params(_material(context, rows=1200), batch_size=1200, packing="group")
    try:
        FINETUNE.run(FolderRun(context.folder / "run", params))
    except Exception as error:
        failure = classify(error, "training")
    else:
        raise WrongFigureError(f"a step with {MEMORY_LIMIT_BYTES >> 20} MiB ended without an error")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    if failure.code is not FailureCode.CUDA_OOM or "batch_size" not in failure.policy.hint:
        raise WrongFigureError(f"it is named {failure.code.value}: {failure.message[:200]}")
    return f"{failure.code.value}: {failure.policy.hint}"


def resume(context: CheckContext) -> str:
    """A training that is drained and continued on another pod ends as the one that was not."""
    context.confirm_device()
    params = _params(_material(context), eval_every=4, dropout=0.1)
    whole = FINETUNE.run(FolderRun(context.folder / "whole", params))
    parted = context.folder / "parted"
    first = FolderRun(parted, params, stop=CountedStop(STEPS))
    try:
        FINETUNE.run(first)
    except DrainRequested:
        pass
    else:
        raise WrongFigureError("the training did not stop when it was asked to")
    step = first.saved_state.get("step", 0)
    if not 0 < step < STEPS:
        raise WrongFigureError(f"it stopped after step {step} of {STEPS}: nothing to resume")
    again = FINETUNE.run(FolderRun(parted, params, attempt=2, pod="another pod"))
    return _compared(whole, again, step)


def _compared(whole: dict[str, Json], again: dict[str, Json], step: int) -> str:
    if whole["adapter_sha256"] == again["adapter_sha256"]:
        return f"resumed at step {step}: the same adapter bytes"
    difference = abs(whole["loss_last"] - again["loss_last"]) / whole["loss_last"]
    if not difference <= NEARLY:
        raise WrongFigureError(f"resumed at step {step}: loss {again['loss_last']}, not {whole['loss_last']}")
    return f"resumed at step {step}: other adapter bytes, the loss differs by {difference:.1g} of itself"


def _material(context: CheckContext, rows: int = 120) -> DemoData:
    return build(context.folder / "material", rows=rows)


def _params(material: DemoData, **changes: Json) -> dict[str, Json]:
    fixed: dict[str, Json] = {
        "model": str(Path(material.model)),
        "dataset": str(Path(material.dataset)),
        "eval_fraction": 0.1,
        "max_length": 128,
        "batch_size": 4,
        "max_steps": STEPS,
        "rank": 4,
        "lr": 1e-2,
        "log_every": 3,
        "checkpoint_every_minutes": 0,
    }
    return fixed | changes
