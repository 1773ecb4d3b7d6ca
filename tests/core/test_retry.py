"""Which failures the words of a job's `retry.on` cover."""

from __future__ import annotations

import pytest

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.retry import failure_hint, is_retry_wanted, prevented_retry, retry_word_fault

EXITED = Failure(FailureCode.USER_ERROR, "broke", exit_code=3)
CRASHED = Failure(FailureCode.CRASHED_SIGNAL, "segfault", exit_code=139)
LOST = Failure(FailureCode.WORKER_LOST, "gone")
OUT_OF_MEMORY = Failure(FailureCode.HOST_OOM, "killed", exit_code=137)
BAD_INPUT = Failure(FailureCode.INVALID_INPUT, "no such file")
TOO_LONG = Failure(FailureCode.MAX_DURATION, "longer than 1 h")
NO_RESULT = Failure(FailureCode.USER_ERROR, "no output matches *.json")  # no exit code: the program succeeded
STUCK = Failure(FailureCode.STAGE_TIMEOUT, "waited too long")
OVER_BUDGET = Failure(FailureCode.BUDGET_EXCEEDED, "spent")
EVERY = [EXITED, CRASHED, LOST, OUT_OF_MEMORY, BAD_INPUT, TOO_LONG, NO_RESULT, STUCK, OVER_BUDGET]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (None, [CRASHED, LOST, OUT_OF_MEMORY, STUCK]),  # the failure table
        ((), []),
        (("interruption",), [LOST, STUCK]),
        (("error",), [EXITED, CRASHED, OUT_OF_MEMORY, NO_RESULT, STUCK]),
        (("oom",), [OUT_OF_MEMORY]),
        (("exit:3",), [EXITED]),
        (("exit:139", "interruption"), [CRASHED, LOST, STUCK]),
    ],
)
def test_words_choose_failures(words: tuple[str, ...] | None, wanted: list[Failure]) -> None:
    assert [each for each in EVERY if is_retry_wanted(each, words)] == wanted


@pytest.mark.parametrize(
    ("failure", "words", "missing"),
    [
        (LOST, ("error",), "interruption"),
        (CRASHED, ("interruption",), "error or exit:139"),
        (OUT_OF_MEMORY, (), "oom or error"),
    ],
)
def test_a_retry_that_only_the_words_prevent_is_explained(
    failure: Failure, words: tuple[str, ...], missing: str
) -> None:
    cause = prevented_retry(failure, words)
    assert cause is not None
    assert f"its retry.on does not list {missing}. Reset the run" in cause
    assert failure_hint(failure, words) is None, "the table's hint says that the run is retried"


@pytest.mark.parametrize(
    ("failure", "words"), [(LOST, None), (LOST, ("interruption",)), (BAD_INPUT, ()), (TOO_LONG, ("error",))]
)
def test_other_ends_have_the_hint_of_their_code(failure: Failure, words: tuple[str, ...] | None) -> None:
    assert prevented_retry(failure, words) is None
    assert failure_hint(failure, words) == failure.policy.hint


@pytest.mark.parametrize("word", ["exit:0", "exit:256", "exit:x", "errors", "", "exit:٣"])
def test_other_words_are_refused_by_name(word: str) -> None:
    fault = retry_word_fault(word)
    assert fault is not None
    assert repr(word) in fault


@pytest.mark.parametrize("word", ["interruption", "error", "oom", "exit:1", "exit:255"])
def test_known_words_are_accepted(word: str) -> None:
    assert retry_word_fault(word) is None
