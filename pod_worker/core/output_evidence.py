"""What the last lines of a program's output say about its failure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pod_worker.core.failure import FailureCode

# PyTorch, cuBLAS and JAX, as their exceptions print it.
_CUDA_OOM = re.compile(
    r"CUDA out of memory|\bOutOfMemoryError: CUDA|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED: Out of memory"
)


def code_in_output(tail: Sequence[str]) -> FailureCode | None:
    """The failure that the lines name, or None."""
    return FailureCode.CUDA_OOM if any(_CUDA_OOM.search(line) for line in tail) else None


# The text of ENOSPC and EDQUOT (strerror(3)) in the report of a call that failed, such as pdfTeX's
# "fflush() failed (No space left on device)". A document or a log that quotes the words alone does not match.
_DISK_FULL = re.compile(
    r"(?:\b(?:write|fwrite|fflush|fclose|close|open|fopen|mkdir)\b[^\n]{0,40}|\[Errno (?:28|122)\] )"
    r"(?:No space left on device|Disk quota exceeded)"
)


def is_disk_full(output: str) -> bool:
    """Whether a program reports that the disk is full."""
    return bool(_DISK_FULL.search(output))
