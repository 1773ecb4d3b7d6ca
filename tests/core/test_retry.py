"""Which failures the words of a job's `retry.on` cover."""

from __future__ import annotations

import pytest

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.retry import is_retry_wanted, retry_word_fault

EXITED = Failure(FailureCode.USER_ERROR, "broke", exit_code=3)
CRASHED = Failure(FailureCode.CRASHED_SIGNAL, "segfault", exit_code=139)
LOST = Failure(FailureCode.WORKER_LOST, "gone")
OUT_OF_MEMORY = Failure(FailureCode.HOST_OOM, "killed", exit_code=137)
BAD_INPUT = Failure(FailureCode.INVALID_INPUT, "no such file")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (None, [CRASHED, LOST, OUT_OF_MEMORY]),  # the failure table
        ((), []),
        (("interruption",), [LOST]),
        (("error",), [EXITED, CRASHED, OUT_OF_MEMORY]),
        (("oom",), [OUT_OF_MEMORY]),
        (("exit:3",), [EXITED]),
        (("exit:139", "interruption"), [CRASHED, LOST]),
    ],
)
def test_words_choose_failures(words: tuple[str, ...] | None, wanted: list[Failure]) -> None:
    every = [EXITED, CRASHED, LOST, OUT_OF_MEMORY, BAD_INPUT]
    assert [each for each in every if is_retry_wanted(each, words)] == wanted


@pytest.mark.parametrize("word", ["exit:0", "exit:256", "exit:x", "errors", "", "exit:٣"])
def test_other_words_are_refused_by_name(word: str) -> None:
    fault = retry_word_fault(word)
    assert fault is not None
    assert repr(word) in fault


@pytest.mark.parametrize("word", ["interruption", "error", "oom", "exit:1", "exit:255"])
def test_known_words_are_accepted(word: str) -> None:
    assert retry_word_fault(word) is None
