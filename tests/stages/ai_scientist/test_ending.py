"""Exit code, output and files -> the failure of the run."""

from __future__ import annotations

import pytest

from pod_worker.command.execution.process import CommandEnd
from pod_worker.core.failure import FailureCode
from pod_worker.stages.ai_scientist.ending import failure_of_program
from pod_worker.stages.ai_scientist.output import OutputFacts

DONE = OutputFacts(is_finished=True)


def code_of(
    end: CommandEnd, facts: OutputFacts, *, has_search: bool = True, lacks_paper: bool = False
) -> FailureCode | None:
    failure = failure_of_program(end, facts, has_search=has_search, has_good_node=True, lacks_paper=lacks_paper)
    return failure.code if failure else None


@pytest.mark.parametrize("end", [CommandEnd(0), CommandEnd(143), CommandEnd(None, 15), CommandEnd(1)])
def test_after_its_last_step_the_exit_code_says_nothing(end: CommandEnd) -> None:
    """It kills itself there."""
    assert code_of(end, DONE) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("openai.AuthenticationError: 401", FailureCode.LLM_AUTH),
        ("openai.RateLimitError: 429", FailureCode.LLM_RATE_LIMIT),
        ("anthropic.APIStatusError: 500", FailureCode.LLM_ERROR),
        ("OSError: [Errno 28] No space left on device: 'x'", FailureCode.DISK_FULL),
        ("ModuleNotFoundError: No module named 'x'", FailureCode.ENVIRONMENT),
        ("ValueError: not enough values to unpack", FailureCode.USER_ERROR),
    ],
)
def test_the_last_line_of_a_traceback_names_the_failure(error: str, code: FailureCode) -> None:
    assert code_of(CommandEnd(1), OutputFacts(last_error=error), has_search=False) is code


def test_an_exit_without_its_last_step_is_no_success() -> None:
    assert code_of(CommandEnd(0), OutputFacts()) is FailureCode.USER_ERROR
    assert code_of(CommandEnd(0), DONE, has_search=False) is FailureCode.USER_ERROR


def test_a_paper_that_was_wanted_must_be_there() -> None:
    assert code_of(CommandEnd(0), DONE, lacks_paper=True) is FailureCode.LATEX_ERROR
    gave_up = OutputFacts(has_no_paper=True, last_error="UnboundLocalError: pdf_path")
    assert code_of(CommandEnd(1), gave_up, lacks_paper=True) is FailureCode.LATEX_ERROR


def test_a_signal_is_named() -> None:
    assert code_of(CommandEnd(139), OutputFacts()) is FailureCode.CRASHED_SIGNAL
    assert code_of(CommandEnd(None, 9, is_oom_killed=True), OutputFacts()) is FailureCode.HOST_OOM
