"""The one schema of a training's hyper-parameters.

Read at enqueue and again by the stage that trains.

Imports neither torch nor transformers, so that a command line can refuse bad parameters in milliseconds. It does
not look at files: the data set and the model live on the machine that trains, not on the one that enqueues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pod_worker.core.run import Json
from pod_worker.parameters import describe as describe_field
from pod_worker.parameters import read_params

Method = Literal["lora", "qlora", "8bit"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Packing = Literal["auto", "group", "packed"]
Format = Literal["auto", "messages", "prompt_completion", "text"]
Scheduler = Literal["cosine", "linear", "constant"]
Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]


class TrainingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field may be left out but `model` and `dataset`.

    Zero is legal wherever zero means something.
    """

    model: Annotated[str, Meta(min_length=1, description="a folder on the pod, or a hub id such as owner/name")]
    dataset: Annotated[
        str,
        Meta(
            min_length=1,
            description="a JSONL file (also gzip or a JSON array) on the pod, "
            "or the key of an artifact runs/... or a data set data/...",
        ),
    ]
    revision: Annotated[str | None, Meta(description="branch, tag or commit of a hub model")] = None
    format: Annotated[Format, Meta(description="what a row holds: messages, prompt_completion, text, or auto")] = (
        "auto"
    )
    eval_dataset: Annotated[str | None, Meta(description="held-out rows, instead of a split")] = None
    eval_fraction: Annotated[float, Meta(ge=0, lt=1, description="share of rows held out; 0 holds none")] = 0.05
    max_rows: Annotated[int, Meta(ge=0, description="use only the first N rows; 0 uses all")] = 0

    method: Annotated[Method, Meta(description="lora, qlora (4-bit base) or 8bit (8-bit base)")] = "lora"
    rank: Annotated[int, Meta(ge=1, le=4096, description="rank of the adapter, from 1 up")] = 16
    alpha: Annotated[float, Meta(ge=0, description="adapter scale times rank, 0 or more")] = 32.0
    dropout: Annotated[float, Meta(ge=0, lt=1, description="adapter dropout, 0 up to but not 1")] = 0.0
    target_modules: Annotated[
        Name | Annotated[list[Name], Meta(min_length=1)],
        Meta(description='"all-linear", a pattern or a list of names of layers'),
    ] = "all-linear"

    lr: Annotated[float, Meta(ge=0, description="peak learning rate, 0 or more")] = 2e-4
    scheduler: Annotated[Scheduler, Meta(description="cosine, linear or constant, after the warmup")] = "cosine"
    warmup: Annotated[
        float, Meta(ge=0, description="below 1 a share of all steps, from 1 up a number of steps; 0 for none")
    ] = 0.03
    batch_size: Annotated[int, Meta(ge=1, description="rows in one forward pass, from 1 up")] = 8
    gradient_accumulation: Annotated[int, Meta(ge=1, description="forward passes per step, from 1 up")] = 1
    max_length: Annotated[int, Meta(ge=2, description="tokens kept of a row, from 2 up")] = 2048
    epochs: Annotated[
        float, Meta(ge=0, le=1e6, description="passes over the data, parts allowed; 0 trains nothing")
    ] = 1.0
    max_steps: Annotated[Count | None, Meta(description="optimizer steps, overrides epochs; 0 trains nothing")] = (
        None
    )
    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay, 0 or more")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="AdamW's first beta, 0 up to but not 1")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="AdamW's second beta, 0 up to but not 1")] = 0.999
    epsilon: Annotated[float, Meta(gt=0, description="AdamW's epsilon, above 0")] = 1e-8
    grad_clip: Annotated[float, Meta(ge=0, description="largest gradient norm; 0 does not clip")] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**53, description="seeds split, order, adapter and dropout")] = 0

    precision: Annotated[Precision, Meta(description="auto, fp32, bf16 or fp16")] = "auto"
    packing: Annotated[Packing, Meta(description="group (by length), packed (end to end) or auto")] = "auto"
    gradient_checkpointing: Annotated[bool, Meta(description="less memory for about a fifth of the speed")] = False
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0 leaves the choice to torch")] = 0

    log_every: Annotated[int, Meta(ge=1, description="steps between metrics, from 1 up")] = 10
    eval_every: Annotated[int, Meta(ge=0, description="steps between evaluations; 0: at start and end only")] = 0
    checkpoint_every_steps: Annotated[int, Meta(ge=0, description="0 for none")] = 0
    checkpoint_every_minutes: Annotated[float, Meta(ge=0, description="0 for none")] = 10.0
    keep_checkpoints: Annotated[
        int, Meta(ge=1, le=100, description="newest checkpoints kept, 1 to 100; the best one is kept besides")
    ] = 3

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation

    def warmup_steps(self, total: int) -> int:
        return math.ceil(self.warmup * total) if self.warmup < 1 else min(int(self.warmup), total)


FIELDS = {field.name: field for field in msgspec.structs.fields(TrainingParams)}

# What other trainers call the same thing.
OTHER_NAMES = {
    "model_name": "model",
    "model_name_or_path": "model",
    "base_model": "model",
    "dataset_path": "dataset",
    "train_file": "dataset",
    "learning_rate": "lr",
    "lr_scheduler_type": "scheduler",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_seq_length": "max_length",
    "max_grad_norm": "grad_clip",
    "lora_r": "rank",
    "r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "logging_steps": "log_every",
    "eval_steps": "eval_every",
    "save_steps": "checkpoint_every_steps",
    "save_total_limit": "keep_checkpoints",
    "load_in_4bit": "method",
    "load_in_8bit": "method",
    "quantization": "method",
    "max_train_samples": "max_rows",
    "test_size": "eval_fraction",
}


UNITS = {
    "max_rows": "rows",
    "batch_size": "rows",
    "gradient_accumulation": "passes",
    "max_length": "tokens",
    "epochs": "passes",
    "max_steps": "steps",
    "log_every": "steps",
    "eval_every": "steps",
    "checkpoint_every_steps": "steps",
    "checkpoint_every_minutes": "minutes",
    "keep_checkpoints": "checkpoints",
    "threads": "threads",
}
# May name a file or folder of the machine that trains.
PATHS = ("model", "dataset", "eval_dataset")


def parse(params: Mapping[str, Json]) -> TrainingParams:
    """Read parameters.

    Raises RunError(INVALID_INPUT) that lists every problem and what to write instead.
    """
    return read_params(TrainingParams, params, "training parameters", OTHER_NAMES)


def complete(params: Mapping[str, Json]) -> dict[str, Json]:
    """The same parameters checked, with defaults: what a run document keeps."""
    return msgspec.structs.asdict(parse(params))


def describe(name: str) -> str:
    """The sentence that says what a field takes."""
    return describe_field(FIELDS[name])
