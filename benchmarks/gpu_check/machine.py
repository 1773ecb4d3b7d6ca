"""Rows about the machine: precision, the GPU's own figures, and what a worker checks before its first claim."""

from __future__ import annotations

from benchmarks.gpu_check.checks import CheckContext, SkippedCheckError, WrongFigureError
from pod_worker.training.environment_check import check_training
from pod_worker.training.hardware import detect_capabilities
from pod_worker.worker import preflight as worker_preflight
from pod_worker.worker.machine import Machine

BF16_TOLERANCE = 0.02  # of the largest value: bf16 has 8 bits of precision


def bf16(context: CheckContext) -> str:
    """A product in bf16 equals the one in fp32, as far as bf16 goes."""
    import torch

    context.confirm_device()
    machine = detect_capabilities()
    if not machine.has_bf16:
        raise SkippedCheckError(f"{machine.name} has no bf16 units")
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(512, 512, generator=draw).to(context.device) for _ in range(2))
    exact = one @ other
    difference = ((one.bfloat16() @ other.bfloat16()).float() - exact).abs().max() / exact.abs().max()
    if not difference <= BF16_TOLERANCE:
        raise WrongFigureError(f"a bf16 product is off by {difference:.2g} of its largest value")
    return (
        f"{machine.name}: off by {difference:.1g}, varlen attention {'yes' if machine.has_varlen_kernel else 'no'}"
    )


def nvml(context: CheckContext) -> str:
    """What a worker's heartbeat reports."""
    if context.device != "cuda":
        raise SkippedCheckError("needs a GPU")
    machine = Machine(context.folder)
    load = machine.load().gpu
    if load is None or not machine.gpus:
        raise WrongFigureError("NVML gives no figures, so heartbeats would have none: check nvidia-smi")
    gpu = machine.gpus[0]
    return (
        f"{len(machine.gpus)} × {gpu.name}, {gpu.vram_gb:g} GiB, {load.used_gb:g} GiB used, "
        f"{load.temp_c:g} °C, {load.power_w:g} W, {load.util:.0%} busy"
    )


def preflight(context: CheckContext) -> str:
    """The worker's checks that need no server, and one training step."""
    gpus = len(Machine(context.folder).gpus) if context.device == "cuda" else 0
    checks = [worker_preflight.disk_check(context.folder, 1.0)]
    if context.device == "cuda":
        checks.append(worker_preflight.gpu_check(1, gpus, worker_preflight.probe_cuda))
    if failures := worker_preflight.run_checks(checks):
        raise WrongFigureError("; ".join(f"{each.check}: {each.message}" for each in failures))
    return f"{len(checks)} checks and one training step on {check_training(context.device)}"
