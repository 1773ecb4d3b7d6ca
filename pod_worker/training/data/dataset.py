"""The data of one training: found, read, divided, encoded, with a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.stage import Context
from pod_worker.training.checkpoints.checkpoint import hash_file
from pod_worker.training.data.batches import split
from pod_worker.training.data.masks import EncodedDataset, Tokenizer, encode
from pod_worker.training.data.rows import DatasetRow, read_rows
from pod_worker.training.params import TrainingParams


@dataclass(frozen=True, slots=True)
class RawDataset:
    """Rows as read. `sha256` is of the files, so it is the same on every pod."""

    training: list[DatasetRow]
    held_out: list[DatasetRow]
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    training: EncodedDataset
    held_out: EncodedDataset
    sha256: str


def read(context: Context, params: TrainingParams) -> RawDataset:
    """Raises RunError(INVALID_INPUT) naming file and line.

    It also raises what fetching an artifact raises.
    """
    path = _local(context, params.dataset)
    rows = read_rows(path, params.format, params.max_rows)
    if params.eval_dataset is None:
        training, held_out = split(rows, params.eval_fraction, params.seed)
        return RawDataset(training, held_out, hash_file(path))
    held_path = _local(context, params.eval_dataset)
    both = hashlib.sha256((hash_file(path) + hash_file(held_path)).encode()).hexdigest()
    return RawDataset(rows, read_rows(held_path, params.format), both)


def encode_all(raw: RawDataset, tokenizer: Tokenizer, max_length: int, check_stop: Callable[[], None]) -> Dataset:
    """Raises RunError(INVALID_INPUT) when no training row is left.

    Held-out rows may all be left out.
    """
    training = encode(raw.training, tokenizer, max_length, check_stop)
    if not training.examples:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"none of the {training.rows} training rows has a loss-bearing token within max_length={max_length}: "
            "raise max_length",
        )
    return Dataset(training, encode(raw.held_out, tokenizer, max_length, check_stop), raw.sha256)


def encoding_warnings(encoded: EncodedDataset, max_length: int, kind: str) -> list[str]:
    """What the owner of the rows should know. `kind` is "training" or "held-out"."""
    found = []
    if encoded.truncated:
        share = encoded.lost_tokens / (encoded.lost_tokens + encoded.loss_tokens)
        found.append(
            f"{encoded.truncated} {kind} rows were cut to max_length={max_length}, "
            f"which took {encoded.lost_tokens} loss-bearing tokens ({share:.1%})"
        )
    if encoded.dropped:
        found.append(
            f"{encoded.dropped} of {encoded.rows} {kind} rows have no loss-bearing token within "
            f"max_length={max_length} and are left out"
        )
    if encoded.rows and not encoded.examples:
        found.append(f"no {kind} row is left, so there is no {kind} loss: raise max_length")
    if encoded.split:
        found.append(
            f"the chat template rewrites earlier turns, so {encoded.split} {kind} conversations "
            "were taken as one example per assistant turn"
        )
    if encoded.unended:
        found.append(
            f"the chat template ends {encoded.unended} of {encoded.conversations} {kind} conversations without an "
            "end token, so the model does not learn to stop: use a template that writes the tokenizer's end token"
        )
    return found


def _local(context: Context, dataset: str) -> Path:
    path = Path(os.path.expanduser(dataset))  # an unknown user is left as it is
    if path.exists() or not dataset.startswith(("runs/", "data/")):
        return path
    folder = context.work_dir / "data" / hashlib.sha256(dataset.encode()).hexdigest()[:16]
    try:
        fetched = context.fetch_data(dataset, folder)
    except FileNotFoundError as error:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"data set {dataset} is no artifact of this run, no uploaded data set and no file here",
        ) from error
    if fetched.is_dir():
        names = ", ".join(sorted(each.name for each in fetched.iterdir())[:5])
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"data set {dataset} is a folder ({names}), and a training reads one file: write "
            f"{dataset.rstrip('/')}/NAME",
        )
    return fetched
