"""Rows about speed: loss-bearing tokens per second of this loop, of HF Trainer and of TRL's SFTTrainer.

Each trainer runs in a process of its own (`benchmarks/training.py`), on the same model, rows, seed and batch.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.gpu_check.checks import CheckContext, SkippedCheckError, WrongFigureError
from pod_worker.training.data.demo_data import ModelShape, build

BENCHMARK = Path(__file__).resolve().parents[1] / "training.py"
LIBRARIES = {"trainer": ("transformers", "accelerate"), "trl": ("trl", "datasets")}
# Large enough to keep a GPU busy, small enough to make and train in seconds.
GPU_SHAPE = ModelShape(hidden=1024, layers=12, heads=16, key_value_heads=4, intermediate=2816)
ROWS = {"cuda": 800, "cpu": 60}


def speed(context: CheckContext, trainer: str) -> str:
    for library in LIBRARIES.get(trainer, ()):
        if importlib.util.find_spec(library) is None:
            raise SkippedCheckError(f"{library} is not installed")
    context.confirm_device()
    folder = _material(context.device, context.folder.parent / "speed")
    tokens, loss = _measured(folder, trainer)
    figure = f"{tokens:,.0f} loss-bearing tokens/s, held-out loss {loss:.3f}"
    if trainer == "pod_worker":
        return figure
    ours, _ = _measured(folder, "pod_worker")
    return f"{figure}; pod_worker is {ours / tokens:.2f} × as fast"


@cache
def _material(device: str, folder: Path) -> Path:
    shape = GPU_SHAPE if device == "cuda" else ModelShape(hidden=64, layers=2, heads=2, key_value_heads=1)
    build(folder, rows=ROWS[device], shape=shape)
    return folder


@cache
def _measured(folder: Path, trainer: str) -> tuple[float, float]:
    """Loss-bearing tokens per second, and the held-out loss at the end."""
    command = [sys.executable, str(BENCHMARK), "--child", trainer, "--folder", str(folder), "--threads", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WrongFigureError(f"{trainer} ended with code {done.returncode}: {last[:300]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures["tokens_per_second"], figures["held_out_loss"]
