"""The list of rows. A row returns its figure, raises what is wrong, or says why it is skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_check.tiny_models import FAMILIES


class SkippedCheckError(Exception):
    """This row cannot run here; the text is the reason."""


class WrongFigureError(Exception):
    """A row found something that must not be."""


@dataclass(frozen=True, slots=True)
class CheckContext:
    device: str  # cpu or cuda
    folder: Path  # of this row alone

    def need_gpu(self) -> None:
        if self.device != "cuda":
            raise SkippedCheckError("needs a GPU")
        self.confirm_device()

    def confirm_device(self) -> None:
        """Without this, training would use the CPU and every row would be ok."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise WrongFigureError("torch cannot use the GPU: torch and the driver do not fit together")


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """Checks of one group share a process. `seconds` is the row's budget."""

    name: str
    group: str
    seconds: float
    run: Callable[[CheckContext], str]


def _check(name: str, group: str, seconds: float, function: str, *arguments: str) -> MachineCheck:
    """torch is imported by the child that runs the row, never by the list."""

    def run(context: CheckContext) -> str:
        module = import_module(f"benchmarks.gpu_check.{group}")
        return str(getattr(module, function)(context, *arguments))

    return MachineCheck(name, group, seconds, run)


CHECKS: tuple[MachineCheck, ...] = (
    _check("bf16", "machine", 30, "bf16"),
    _check("NVML figures", "machine", 10, "nvml"),
    _check("preflight", "machine", 90, "preflight"),
    *(_check(f"model {family}", "families", 40, "family", family) for family in FAMILIES),
    _check("4-bit training", "runs", 90, "four_bits"),
    _check("out of memory is named", "runs", 60, "out_of_memory"),
    _check("resume is exact", "runs", 90, "resume"),
    _check("tokens/s pod_worker", "speed", 90, "speed", "pod_worker"),
    _check("tokens/s HF Trainer", "speed", 90, "speed", "trainer"),
    _check("tokens/s TRL", "speed", 90, "speed", "trl"),
)
