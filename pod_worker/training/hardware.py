"""What this machine can do: device, precision, layout of a batch, kernel.

It also decides what a training therefore does.

Capabilities are probed, never tried and caught. `plan_execution` is a pure function from parameters and
capabilities to an execution plan. Every choice that the parameters left open comes with the reason that is logged.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.training.params import TrainingParams

Attention = Literal["eager", "sdpa", "flash_attention_2"]

# Without these units a bf16 product is emulated: 14 times slower than fp32 on a small model.
BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class Capabilities:
    device: Literal["cuda", "cpu"]
    name: str
    has_bf16: bool
    has_varlen_kernel: bool  # attention over rows laid end to end, without a mask
    has_bitsandbytes: bool


@dataclass(frozen=True, slots=True)
class ModelSupport:
    """Which attention implementations a model family has; `eager` is always there."""

    family: str
    has_sdpa: bool = True
    has_flash_attention: bool = True


ANY_MODEL = ModelSupport("")


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    packed: bool
    attention: Attention
    reasons: tuple[str, ...]


def detect_capabilities() -> Capabilities:
    import torch

    has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    if not torch.cuda.is_available():
        units = BF16_UNITS & _cpu_flags(Path("/proc/cpuinfo"))
        return Capabilities("cpu", _cpu_name(Path("/proc/cpuinfo")), bool(units), False, has_bitsandbytes)
    # FlashAttention 2 needs Ampere or later; older cards have no bf16 units either.
    is_recent = torch.cuda.get_device_capability() >= (8, 0)
    name = torch.cuda.get_device_name()
    return Capabilities("cuda", name, is_recent, is_recent and _has_flash_attention(), has_bitsandbytes)


def plan_execution(
    params: TrainingParams, machine: Capabilities, model: ModelSupport = ANY_MODEL
) -> ExecutionPlan:
    """Raises RunError(INVALID_INPUT) for a method without software on this machine."""
    if params.method != "lora" and not machine.has_bitsandbytes:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"method {params.method!r} needs bitsandbytes, which is not installed: "
            "pip install -e '.[train]' on Linux, or use method 'lora'",
        )
    precision, why_precision = _precision(params, machine)
    packed, why_packed = _layout(params, machine, model)
    attention, why_kernel = _attention(packed and _kernel_fits(machine, precision), model)
    base = {
        "lora": (),
        "qlora": ("base model in 4 bits (nf4, double quantisation): a quarter of the memory, not faster",),
        "8bit": ("base model in 8 bits: half the memory, not faster",),
    }[params.method]
    reasons = (
        *base,
        f"precision {precision}: {why_precision}",
        f"rows {'packed end to end' if packed else 'grouped by length'}: {why_packed}",
        f"attention {attention}: {why_kernel}",
    )
    return ExecutionPlan(machine.device, precision, packed, attention, reasons)


def _precision(params: TrainingParams, machine: Capabilities) -> tuple[Literal["fp32", "bf16", "fp16"], str]:
    wanted = params.precision
    if machine.device == "cpu":
        if wanted == "bf16" and machine.has_bf16:
            return "bf16", "as asked, and the CPU has units for it"
        if wanted in ("bf16", "fp16"):
            return "fp32", f"{wanted} was asked, but this CPU has no units for it and would emulate it slowly"
        return "fp32", "as asked" if wanted == "fp32" else "the exact choice on a CPU"
    if wanted == "bf16" and not machine.has_bf16:
        return "fp16", "bf16 was asked, but this GPU is older than Ampere"
    if wanted == "auto":
        return ("bf16", "the GPU has it") if machine.has_bf16 else ("fp16", "the GPU has no bf16")
    return wanted, "as asked"


def _attention(can_use_flash: bool, model: ModelSupport) -> tuple[Attention, str]:
    if can_use_flash and model.has_flash_attention:
        return "flash_attention_2", "rows stay apart without a mask"
    if model.has_sdpa:
        return "sdpa", "torch's own kernels"
    return "eager", f"model family {model.family} has no other implementation"


def _layout(params: TrainingParams, machine: Capabilities, model: ModelSupport) -> tuple[bool, str]:
    # Attention over a packed row with a dense block mask grows with the square of the whole row.
    if params.packing == "packed":
        slow = "" if machine.has_varlen_kernel else ", though without a variable-length kernel it is slower"
        return True, f"as asked{slow}"
    if params.packing == "group":
        return False, "as asked"
    if machine.has_varlen_kernel and model.has_flash_attention and params.precision != "fp32":
        return True, "a variable-length attention kernel is there"
    return False, "there is no variable-length attention kernel, so little padding is the fastest"


def without_packing(plan: ExecutionPlan, reason: str) -> ExecutionPlan:
    """The same plan with rows grouped by length, and why."""
    return replace(plan, packed=False, reasons=(*plan.reasons, f"rows grouped by length instead: {reason}"))


def _kernel_fits(machine: Capabilities, precision: str) -> bool:
    return machine.has_varlen_kernel and precision != "fp32"


def _has_flash_attention() -> bool:
    """Whether FlashAttention 2 can be used.

    The module alone is not enough: FlashAttention 4 uses the same name for another interface.
    """
    if importlib.util.find_spec("flash_attn") is None:
        return False
    owners = importlib.metadata.packages_distributions().get("flash_attn", [])
    return any(owner.replace("_", "-").lower() == "flash-attn" for owner in owners)


def _cpu_flags(path: Path) -> frozenset[str]:
    for line in _cpu_lines(path):
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _cpu_name(path: Path) -> str:
    names = (line.partition(":")[2].strip() for line in _cpu_lines(path) if line.startswith("model name"))
    return next(names, "CPU")


def _cpu_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
