"""Training speed here: pod_worker's loop against Hugging Face's Trainer, same data, seed, batch and steps.

Counts loss-bearing tokens per second of training (evaluation and checkpoints are off for all), and the held-out
loss that each reaches, measured by the same function on the same rows. Each run is a process of its own; rounds
are interleaved, so that a busy machine slows all alike. `python benchmarks/training.py [--json]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from transformers.trainer import Trainer

    from pod_worker.core.run import Json
    from pod_worker.training.loop import TrainingTask

STARTED = time.perf_counter()
NAMES = {
    "pod_worker": "pod_worker (grouped by length, head only where loss is)",
    "trainer": "transformers Trainer (pads to the longest of a batch)",
    "trainer_grouped": "transformers Trainer, grouped by length",
}
CHILDREN = (*NAMES, "trl")  # TRL only for benchmarks.gpu_check, and only where it is installed
TARGET = 1.3
TOLERANCE = 0.02  # of the held-out loss, between trainers; seeds alone move it about as much

Figures: TypeAlias = dict[str, float]


def main() -> int:
    options = _options()
    if options.child:
        print(json.dumps(_child(options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        from pod_worker.training.data.demo_data import build

        build(Path(folder), rows=options.rows)
        results = _rounds(options, folder)
    summary = {name: _summary(runs) for name, runs in results.items()}
    verdict = _verdict(summary)
    if options.json:
        print(json.dumps({"results": summary, **verdict, "options": vars(options)}))
    else:
        _print_table(summary, verdict, options)
    return 0 if verdict["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _rounds(options: argparse.Namespace, folder: str) -> dict[str, list[Figures]]:
    results: dict[str, list[Figures]] = {name: [] for name in NAMES}
    for seed in range(options.repeats):
        for name in NAMES:
            command = [sys.executable, __file__, "--child", name, "--folder", folder, "--seed", str(seed)]
            command += ["--rows", str(options.rows), "--epochs", str(options.epochs)]
            command += ["--threads", str(options.threads)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def _summary(runs: list[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _verdict(summary: dict[str, Figures]) -> dict[str, float | bool]:
    ours, theirs = summary["pod_worker"], summary["trainer"]
    ratio = ours["tokens_per_second"] / theirs["tokens_per_second"]
    difference = ours["held_out_loss"] / theirs["held_out_loss"] - 1
    return {
        "ratio": round(ratio, 3),
        "loss_difference": round(difference, 4),
        "target": TARGET,
        "tolerance": TOLERANCE,
        "ok": ratio >= TARGET and abs(difference) <= TOLERANCE,
    }


COLUMNS = {
    "loss-bearing tokens/s": "tokens_per_second",
    "per CPU second": "tokens_per_cpu_second",
    "train s": "train_seconds",
    "start to end s": "process_seconds",
    "held-out loss before": "loss_before",
    "after": "held_out_loss",
}


def _print_table(
    summary: dict[str, Figures], verdict: dict[str, float | bool], options: argparse.Namespace
) -> None:
    print(f"{options.rows} rows, {options.epochs:g} epoch, {options.threads} threads, median of {options.repeats}")
    print(f"\n| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, figures in summary.items():
        print(f"| {NAMES[name]} | {' | '.join(f'{figures[key]:.4g}' for key in COLUMNS.values())} |")
    print(
        f"\n{verdict['ratio']} × Trainer (target ≥ {TARGET}), held-out loss {verdict['loss_difference']:+.2%} "
        f"(tolerance ±{TOLERANCE:.0%}): {'reached' if verdict['ok'] else 'NOT REACHED'}"
    )


# ── one run, in a process of its own ────────────────────────────────────────────────────────────────────────


def _child(options: argparse.Namespace) -> Figures:
    from pod_worker.core.clock import SystemClock
    from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
    from pod_worker.training.library_logs import redirect_library_logs
    from pod_worker.training.loop import TrainingLoop
    from pod_worker.training.lora import prepare
    from pod_worker.training.params import parse

    folder = Path(options.folder)
    params = parse(
        {
            "model": str(folder / "tiny-llama"),
            "dataset": str(folder / "docstrings.jsonl"),
            "epochs": options.epochs,
            "seed": options.seed,
            "threads": options.threads,
            "lr": 5e-3,
            "warmup": 0,
            "checkpoint_every_minutes": 0,
        }
    )
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.gpu_check.folder_context import FolderRun

    context = FolderRun(Path(tempfile.mkdtemp(dir=folder)), {})
    with redirect_library_logs(lambda _message, _level: None):
        task, _ = prepare(context, params)
        judge = TrainingLoop(task, context, CheckpointStore(context), SystemClock())
        before = judge.held_out_loss()
        if options.child == "pod_worker":
            train = TrainingLoop(replace(task, held_out=()), context, CheckpointStore(context), SystemClock()).run
        elif options.child == "trl":
            train = _trl(task, options).train
        else:
            train = _trainer(task, options, grouped=options.child == "trainer_grouped").train
        began, cpu = time.perf_counter(), time.process_time()
        train()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        after = judge.held_out_loss()
    tokens = sum(example.loss_tokens for example in task.training) * options.epochs
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / cpu,
        "train_seconds": seconds,
        "process_seconds": time.perf_counter() - STARTED,
        "loss_before": before,
        "held_out_loss": after,
    }


def _trainer(task: TrainingTask, options: argparse.Namespace, grouped: bool) -> Trainer:
    from transformers.data.data_collator import DataCollatorForSeq2Seq
    from transformers.trainer import Trainer
    from transformers.training_args import TrainingArguments

    from pod_worker.training.model.base_model import load_tokenizer

    sampling = "group_by_length" if grouped else "random"
    arguments = TrainingArguments(**_arguments(task, options), train_sampling_strategy=sampling)
    tokenizer = load_tokenizer(Path(task.params.model), task.params.model)
    return Trainer(
        model=task.model,
        args=arguments,
        train_dataset=_rows(task),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


def _trl(task: TrainingTask, options: argparse.Namespace) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from pod_worker.training.model.base_model import load_tokenizer

    # The rows have their labels already, so nothing is left to prepare.
    arguments = SFTConfig(**_arguments(task, options), dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(
        model=task.model,
        args=arguments,
        train_dataset=Dataset.from_list(_rows(task)),
        processing_class=load_tokenizer(Path(task.params.model), task.params.model),
    )


def _rows(task: TrainingTask) -> list[dict[str, list[int]]]:
    return [
        {
            "input_ids": example.tokens.tolist(),
            "labels": [
                token if bears else -100
                for token, bears in zip(example.tokens.tolist(), example.loss_mask.tolist(), strict=True)
            ],
        }
        for example in task.training
    ]


def _arguments(task: TrainingTask, options: argparse.Namespace) -> dict[str, Json]:
    params, execution = task.params, task.execution
    return {
        "output_dir": tempfile.mkdtemp(dir=options.folder),
        "per_device_train_batch_size": params.batch_size,
        "num_train_epochs": options.epochs,
        "learning_rate": params.lr,
        "lr_scheduler_type": "cosine",
        "seed": params.seed,
        "logging_steps": params.log_every,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": execution.device == "cpu",
        "bf16": execution.precision == "bf16",
        "fp16": execution.precision == "fp16",
        "gradient_checkpointing": params.gradient_checkpointing,
    }


if __name__ == "__main__":
    sys.exit(main())
