"""After which failures a run is repeated: the words of `retry.on` in a job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pod_worker.core.failure import Failure, FailureCode

INTERRUPTION, ERROR, OOM = "interruption", "error", "oom"
EXIT_CODE = re.compile(r"exit:(\d{1,3})", re.ASCII)
_OUT_OF_MEMORY = frozenset({FailureCode.CUDA_OOM, FailureCode.HOST_OOM})


def retry_word_fault(word: str) -> str | None:
    """What is wrong with a word, or None."""
    exit_code = EXIT_CODE.fullmatch(word)
    if word in (INTERRUPTION, ERROR, OOM) or (exit_code and 1 <= int(exit_code[1]) <= 255):
        return None
    return f"{word!r:.80} is unknown: give {INTERRUPTION}, {ERROR}, {OOM} or exit:N with N from 1 to 255"


def is_retry_wanted(failure: Failure, words: Sequence[str] | None) -> bool:
    """Whether the failure may be retried.

    Without words the failure table decides. An end of the user's own program has an exit code; everything else
    that the table retries is an interruption.
    """
    if words is None:
        return failure.policy.is_retryable
    if failure.code in _OUT_OF_MEMORY:
        return OOM in words or ERROR in words
    if failure.exit_code is not None:
        return ERROR in words or f"exit:{failure.exit_code}" in words
    return INTERRUPTION in words and failure.policy.is_retryable
