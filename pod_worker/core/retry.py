"""After which failures a run is repeated: the words of `retry.on` in a job."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pod_worker.core.failure import Failure, FailureClass, FailureCode

INTERRUPTION, ERROR, OOM = "interruption", "error", "oom"
EXIT_CODE = re.compile(r"exit:(\d{1,3})", re.ASCII)
_OUT_OF_MEMORY = frozenset({FailureCode.CUDA_OOM, FailureCode.HOST_OOM})
_OWN_FAULTS = frozenset({FailureClass.USER, FailureClass.MODEL})
# Another attempt ends in the same way, or costs the time again that max_duration limits.
_NEVER_REPEATED = frozenset({FailureCode.INVALID_INPUT, FailureCode.LLM_AUTH, FailureCode.MAX_DURATION})


def retry_word_fault(word: str) -> str | None:
    """What is wrong with a word, or None."""
    exit_code = EXIT_CODE.fullmatch(word)
    if word in (INTERRUPTION, ERROR, OOM) or (exit_code and 1 <= int(exit_code[1]) <= 255):
        return None
    return f"{word!r:.80} is unknown: give {INTERRUPTION}, {ERROR}, {OOM} or exit:N with N from 1 to 255"


def is_retry_wanted(failure: Failure, words: Sequence[str] | None) -> bool:
    """Whether the failure may be retried.

    Without words the failure table decides. With words, one of those that cover the failure must be among them.
    """
    if words is None:
        return failure.policy.is_retryable
    return not set(_covering_words(failure)).isdisjoint(words)


def prevented_retry(failure: Failure, words: Sequence[str] | None) -> str | None:
    """The cause and the fix where only the words prevented a retry; else None."""
    if words is None or not failure.policy.is_retryable or is_retry_wanted(failure, words):
        return None
    missing = " or ".join(_covering_words(failure))
    return (
        f"The run is not repeated after that, because its retry.on does not list {missing}. Reset the run, or "
        "submit it again with that word."
    )


def failure_hint(failure: Failure, words: Sequence[str] | None) -> str | None:
    """What a person can do about the failure that ended a run.

    None where the words prevented a retry: then the run's message says so.
    """
    return failure.policy.hint if prevented_retry(failure, words) is None else None


def _covering_words(failure: Failure) -> list[str]:
    """The words that ask for a retry after this failure.

    An end of the user's own program has an exit code. Of the other ends, those that the table retries are
    interruptions, and those of the run's own code are errors.
    """
    policy = failure.policy
    if failure.code in _OUT_OF_MEMORY:
        return [OOM, ERROR]
    if failure.exit_code is not None:
        return [ERROR, f"exit:{failure.exit_code}"]
    is_error = policy.failure_class in _OWN_FAULTS and failure.code not in _NEVER_REPEATED
    return [INTERRUPTION] * policy.is_retryable + [ERROR] * is_error
