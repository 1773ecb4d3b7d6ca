"""One file that holds everything a training needs to go on.

It holds the adapter, the optimizer, the random states and the position.

The file is an uncompressed tar of safetensors and JSON with a manifest of hashes. It appears under its name only
when it is whole and on disk; reading one back verifies every hash and never unpickles anything.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pod_worker.training.checkpoints.tar_extraction import ArchiveError, extract_members

VERSION = 1
PARTS = ("adapter", "optimizer", "random")


class LossPoint(msgspec.Struct, frozen=True):
    """One logged step. `loss` is per loss-bearing token since the step logged before."""

    step: int
    loss: float
    lr: float
    grad_norm: float


class EvalPoint(msgspec.Struct, frozen=True):
    step: int
    loss: float


class Progress(msgspec.Struct):
    """How far a training has come.

    `step` counts finished optimizer steps; tokens are loss-bearing ones.
    """

    step: int = 0
    tokens: int = 0
    row_tokens: int = 0  # all tokens of the rows, prompts included; no padding
    rows: int = 0
    seconds: float = 0.0  # spent in steps, over all attempts
    loss_sum: float = 0.0  # since the last logged step
    loss_tokens: int = 0
    grad_norm: float = 0.0
    scaler: dict[str, float] = {}
    curve: list[LossPoint] = []
    evals: list[EvalPoint] = []


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """`fingerprint` names what must be the same for these numbers to mean anything."""

    progress: Progress
    fingerprint: dict[str, str]
    adapter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class PackedCheckpoint:
    path: Path
    bytes: int
    sha256: str


class CheckpointError(Exception):
    """The file is absent, cut short or changed; the text says which."""


class _Manifest(msgspec.Struct):
    version: int
    fingerprint: dict[str, str]
    progress: Progress
    sha256: dict[str, str]


def pack(snapshot: TrainingSnapshot, path: Path) -> PackedCheckpoint:
    """Write atomically: a crash leaves the old file or the new one, never a half."""
    folder = path.with_suffix(".parts")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in PARTS:
        tensors: Mapping[str, Tensor] = getattr(snapshot, part)
        save_file({name: each.detach().contiguous().cpu() for name, each in tensors.items()}, folder / part)
    hashes = {part: hash_file(folder / part) for part in PARTS}
    manifest = _Manifest(VERSION, snapshot.fingerprint, snapshot.progress, hashes)
    (folder / "manifest").write_bytes(msgspec.json.encode(manifest))
    whole = folder / "whole"
    _write_tar(whole, [folder / "manifest", *(folder / part for part in PARTS)])
    packed = PackedCheckpoint(path, whole.stat().st_size, hash_file(whole))
    whole.replace(path)
    _sync(path.parent)
    shutil.rmtree(folder)
    return packed


def unpack(path: Path) -> TrainingSnapshot:
    """Raises CheckpointError."""
    folder = path.with_suffix(".parts")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        extract_members(path, ("manifest", *PARTS), folder)
        manifest = msgspec.json.decode((folder / "manifest").read_bytes(), type=_Manifest)
        _verify(manifest, folder)
        return TrainingSnapshot(
            manifest.progress, manifest.fingerprint, **{part: load_file(folder / part) for part in PARTS}
        )
    except (ArchiveError, msgspec.MsgspecError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is damaged ({type(error).__name__}: {error})") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is not there") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verify(manifest: _Manifest, folder: Path) -> None:
    if manifest.version != VERSION:
        raise CheckpointError(f"was written in format {manifest.version}, this version reads {VERSION}")
    for part in PARTS:
        if hash_file(folder / part) != manifest.sha256.get(part):
            raise CheckpointError(f"part {part!r} is not what was written (sha256 differs)")


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_tar(path: Path, members: list[Path]) -> None:
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for member in members:
                tar.add(member, member.name, filter=_plain)
        file.flush()
        os.fsync(file.fileno())


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same state gives the same bytes on every machine and at any time."""
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
