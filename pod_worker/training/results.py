"""What a training leaves behind: the adapter, a card, a report with the curve.

The same training writes the same adapter bytes. Every number on the card is in the report too, as JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from safetensors.torch import save_file

from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact, ArtifactKind, Context
from pod_worker.training.checkpoints.checkpoint import EvalPoint, LossPoint, Progress
from pod_worker.training.data.dataset import Dataset
from pod_worker.training.loop import TrainingTask
from pod_worker.training.loss_plot import loss_svg
from pod_worker.training.model.base_model import adapter_weights, exported_adapter

LOSS_ROWS, HELD_OUT_ROWS = 12, 50  # of the card's table; report.json has every point
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "flash-attn")


def publish(context: Context, task: TrainingTask, data: Dataset, progress: Progress) -> dict[str, Json]:
    """Write everything below the run's folder and publish it; returns the summary.

    That is the stage's summary.
    """
    folder = context.work_dir / "results"
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    summary = summarise(task, data, progress)
    _write_adapter(folder / "adapter", task)
    (folder / "README.md").write_text(model_card(task, data, progress, summary), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report(task, data, progress, summary), indent=1) + "\n")
    (folder / "loss.svg").write_text(loss_svg(progress.curve, progress.evals), encoding="utf-8")

    def send(name: str, kind: ArtifactKind, role: str | None = None) -> Artifact:
        context.stop.check()
        return context.artifacts.publish(folder / name, kind, name=name, role=role)

    adapter = send("adapter/adapter_model.safetensors", ArtifactKind.ADAPTER, "final")
    send("adapter/adapter_config.json", ArtifactKind.ADAPTER)
    send("README.md", ArtifactKind.MODEL_CARD)
    send("report.json", ArtifactKind.REPORT)
    send("loss.svg", ArtifactKind.REPORT)
    context.log(f"published the adapter as {adapter.key}", bytes=adapter.bytes, sha256=adapter.sha256)
    return {**summary, "adapter": adapter.key, "adapter_sha256": adapter.sha256}


def summarise(task: TrainingTask, data: Dataset, progress: Progress) -> dict[str, Json]:
    curve, evals = progress.curve, progress.evals
    best = _best(evals)
    return {
        "loss_first": curve[0].loss if curve else None,
        "loss_last": curve[-1].loss if curve else None,
        "eval_loss_before": evals[0].loss if evals else None,
        "eval_loss_after": evals[-1].loss if evals else None,
        "eval_loss_best": best.loss if best else None,
        "eval_loss_best_step": best.step if best else None,
        "steps": progress.step,
        "epochs": round(progress.step / task.plan.steps_per_epoch, 4),
        "rows": progress.rows,
        "tokens": progress.row_tokens,
        "loss_tokens": progress.tokens,
        "train_seconds": round(progress.seconds, 3),
        "tokens_per_second": _rate(progress.row_tokens, progress.seconds),
        "loss_tokens_per_second": _rate(progress.tokens, progress.seconds),
        "trainable_parameters": sum(weight.numel() for weight in adapter_weights(task.model).values()),
        "data_rows": len(data.training.examples),
        "held_out_rows": len(data.held_out.examples),
        "data_sha256": data.sha256,
    }


def _best(evals: Sequence[EvalPoint]) -> EvalPoint | None:
    """The lowest held-out loss; of equal ones, the earliest."""
    return min(evals, key=lambda point: point.loss, default=None)


def _rate(tokens: int, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if seconds else None


def report(task: TrainingTask, data: Dataset, progress: Progress, summary: dict[str, Json]) -> dict[str, Json]:
    execution = task.execution
    return {
        "summary": summary,
        "hyper_parameters": msgspec.structs.asdict(task.params),
        "execution": {
            "device": execution.device,
            "precision": execution.precision,
            "attention": execution.attention,
            "packed": execution.packed,
            "reasons": list(execution.reasons),
        },
        "data": {
            "sha256": data.sha256,
            "truncated": data.training.truncated,
            "lost_tokens": data.training.lost_tokens,
            "dropped": data.training.dropped,
            "split": data.training.split,
            "held_out_dropped": data.held_out.dropped,
        },
        "versions": versions(),
        "curve": msgspec.to_builtins(progress.curve),
        "evaluations": msgspec.to_builtins(progress.evals),
    }


def versions() -> dict[str, str]:
    installed = {each.name.lower().replace("_", "-"): each.version for each in importlib.metadata.distributions()}
    return {name: installed[name] for name in LIBRARIES if name in installed}


def model_card(task: TrainingTask, data: Dataset, progress: Progress, summary: dict[str, Json]) -> str:
    params = task.params
    head = f"---\nbase_model: {json.dumps(params.model)}\nlibrary_name: peft\ntags: [lora]\n---\n"
    load = (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {params.model!r}\nmodel = PeftModel.from_pretrained("
        'AutoModelForCausalLM.from_pretrained(base), "adapter")\n'
        "tokenizer = AutoTokenizer.from_pretrained(base)\n```\n"
    )
    sections = {
        "Result": _table(summary),
        "Loss": _curve_table(progress),
        "Data": _data(task, data),
        "Hyper-parameters": _table(msgspec.structs.asdict(params)),
        "Software": _table(versions()),
        "How to load it": load,
    }
    title = f"\n# LoRA adapter for {params.model}\n"
    return head + title + "".join(f"\n## {name}\n\n{body}" for name, body in sections.items())


def _data(task: TrainingTask, data: Dataset) -> str:
    training = data.training
    return (
        f"`{Path(task.params.dataset).name}`, sha256 `{data.sha256}`: {len(training.examples)} examples to train "
        f"on with {training.loss_tokens} loss-bearing tokens, {len(data.held_out.examples)} held out. "
        f"{training.truncated} were cut to fit, {training.dropped} left out.\n"
    )


def _curve_table(progress: Progress) -> str:
    points = progress.curve
    if not points:
        return "No step was taken.\n"
    losses = {point.step: point.loss for point in _spread(points, LOSS_ROWS)}
    best = _best(progress.evals)
    held = {
        point.step: point.loss for point in [*_spread(progress.evals, HELD_OUT_ROWS), *([best] if best else [])]
    }
    lines = [
        f"| {step} | {_cell(losses.get(step))} | {_cell(held.get(step))} |" for step in sorted({*losses, *held})
    ]
    hidden = len(progress.evals) - len(held)
    more = f"\n{hidden} more evaluations are in report.json.\n" if hidden else ""
    return "| Step | Loss | Held-out loss |\n|---|---|---|\n" + "\n".join(lines) + "\n" + more


Point = TypeVar("Point", LossPoint, EvalPoint)


def _spread(points: Sequence[Point], limit: int) -> list[Point]:
    """All points, or `limit` of them at even distances.

    The first and the last are among them.
    """
    if len(points) <= limit:
        return list(points)
    return [points[round(index * (len(points) - 1) / (limit - 1))] for index in range(limit)]


def _cell(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def _table(values: dict[str, Json] | dict[str, str]) -> str:
    rows = ((name, f"{value:.6g}" if isinstance(value, float) else value) for name, value in values.items())
    return "| Name | Value |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _write_adapter(folder: Path, task: TrainingTask) -> None:
    weights, config = exported_adapter(task.model, task.params.model)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
