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
