"""Rows about model families: every attention implementation agrees, and packed rows equal rows alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu_check.checks import CheckContext, WrongFigureError
from benchmarks.gpu_check.tiny_models import TARGETS, write_model
from pod_worker.training.data.demo_data import build
from pod_worker.training.data.masks import Example, encode
from pod_worker.training.data.rows import read_rows
from pod_worker.training.hardware import (
    Attention,
    Capabilities,
    ExecutionPlan,
    ModelSupport,
    detect_capabilities,
    plan_execution,
)
from pod_worker.training.library_logs import redirect_library_logs
from pod_worker.training.model.base_model import DTYPES, load_model, load_tokenizer
from pod_worker.training.model.loss import collate, loss_sum
from pod_worker.training.model.model_support import packing_problem, read_support
from pod_worker.training.params import TrainingParams, parse

TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}  # of the loss, between two orders of the same sums


def family(context: CheckContext, name: str) -> str:
    """Figure: the implementations and how far they differ; packed against alone, or why it is not packed."""
    context.confirm_device()
    material = build(context.folder / "material", rows=8)
    folder = write_model(context.folder / name, name, material.model)
    params = parse(
        {"model": str(folder), "dataset": "none", "rank": 4, "target_modules": TARGETS.get(name, "all-linear")}
    )
    machine, support = detect_capabilities(), read_support(folder, name)
    plan = plan_execution(params, machine, support)
    examples = encode(read_rows(material.dataset, limit=4), load_tokenizer(folder, name), 64).examples
    with redirect_library_logs(lambda _message, _level: None):
        losses = {
            each: _loss(_load(folder, params, plan, each), plan, [examples])
            for each in implementations(machine, support, plan)
        }
        spread = _spread(losses, plan)
        packed = _packed(_load(folder, params, plan, plan.attention), plan, examples)
    return f"{', '.join(losses)} within {spread:.1g} ({plan.precision}); {packed}"


def implementations(machine: Capabilities, support: ModelSupport, plan: ExecutionPlan) -> list[Attention]:
    found: list[Attention] = ["eager"]
    if support.has_sdpa:
        found.append("sdpa")
    if support.has_flash_attention and machine.has_varlen_kernel and plan.precision != "fp32":
        found.append("flash_attention_2")
    return found


def _load(folder: Path, params: TrainingParams, plan: ExecutionPlan, attention: Attention) -> torch.nn.Module:
    chosen = replace(plan, packed=False, attention=attention)
    return load_model(folder, params, chosen).eval()


def _loss(
    model: torch.nn.Module, plan: ExecutionPlan, batches: list[list[Example]], packed: bool = False
) -> float:
    """Summed over the batches, without a gradient."""
    cast = torch.autocast(plan.device, DTYPES[plan.precision], enabled=plan.precision != "fp32")
    with torch.no_grad(), cast:
        return float(sum(loss_sum(model, collate(batch, packed).to(plan.device)).item() for batch in batches))


def _spread(losses: dict[Attention, float], plan: ExecutionPlan) -> float:
    spread = (max(losses.values()) - min(losses.values())) / min(losses.values())
    if not spread <= TOLERANCES[plan.precision]:
        shown = ", ".join(f"{name} {loss:.6g}" for name, loss in losses.items())
        raise WrongFigureError(f"attention implementations give different losses: {shown}")
    return spread


def _packed(model: torch.nn.Module, plan: ExecutionPlan, examples: list[Example]) -> str:
    if problem := packing_problem(model):
        return f"grouped, not packed: {problem}"
    alone = _loss(model, plan, [[each] for each in examples])
    difference = abs(_loss(model, plan, [examples], packed=True) - alone) / alone
    if not difference <= TOLERANCES[plan.precision]:
        raise WrongFigureError(
            f"packed rows lose {difference:.2g} of the loss of rows alone, and no probe says so"
        )
    return f"packed equals alone within {difference:.1g} ({plan.attention})"
