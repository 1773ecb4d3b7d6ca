"""The kind of an artifact by the name of its file."""

from __future__ import annotations

from pathlib import PurePosixPath

from pod_worker.core.stage import ArtifactKind

_SUFFIXES = {
    ArtifactKind.PLOT: ".png .svg .jpg .jpeg .gif .webp",
    ArtifactKind.PAPER: ".pdf .tex .bib",
    ArtifactKind.CODE: ".py .sh .ipynb .js .ts .c .cpp .cu .rs .go .patch .diff",
    ArtifactKind.LOG: ".log .out .err .txt",
    ArtifactKind.REPORT: ".md .html",
    ArtifactKind.DATA: ".csv .tsv .json .jsonl .ndjson .parquet .arrow .npy .npz .h5 .hdf5 .yaml .yml .toml .db",
    ArtifactKind.ARCHIVE: ".tar .gz .tgz .zip .zst .xz .bz2 .7z",
}  # fmt: skip
_KIND_OF = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}


def output_kind(name: str) -> ArtifactKind:
    """The kind for a name; OTHER for weights too.

    An upload of kind CHECKPOINT is retried for a minute only, and a result must be retried longer.
    """
    path = PurePosixPath(name.lower())
    if path.name.startswith("adapter_model."):
        return ArtifactKind.ADAPTER
    return _KIND_OF.get(path.suffix, ArtifactKind.OTHER)
