"""How AI-Scientist-v2 ended: judged by what it printed and wrote.

At its end the original kills every Python process it sees, itself included, so its exit code says little.
"""

from __future__ import annotations

from pod_worker.command.execution.failure import failure_of
from pod_worker.command.execution.process import CommandEnd
from pod_worker.core.failure import FailureCode, ProgramError
from pod_worker.core.output_evidence import is_disk_full
from pod_worker.stages.ai_scientist.output import OutputFacts

PROGRAM = "AI-Scientist-v2"
# The beginning of a traceback's last line -> what it means.
_ERRORS = (
    ("openai.AuthenticationError", FailureCode.LLM_AUTH),
    ("anthropic.AuthenticationError", FailureCode.LLM_AUTH),
    ("openai.PermissionDeniedError", FailureCode.LLM_AUTH),
    ("anthropic.PermissionDeniedError", FailureCode.LLM_AUTH),
    ("openai.RateLimitError", FailureCode.LLM_RATE_LIMIT),
    ("anthropic.RateLimitError", FailureCode.LLM_RATE_LIMIT),
    ("openai.", FailureCode.LLM_ERROR),
    ("anthropic.", FailureCode.LLM_ERROR),
    ("torch.cuda.OutOfMemoryError", FailureCode.CUDA_OOM),
    ("torch.OutOfMemoryError", FailureCode.CUDA_OOM),
    ("MemoryError", FailureCode.HOST_OOM),
    ("ModuleNotFoundError", FailureCode.ENVIRONMENT),
)


def failure_of_program(
    end: CommandEnd, facts: OutputFacts, *, has_search: bool, has_good_node: bool, lacks_paper: bool
) -> ProgramError | None:
    """The failure, or None for a success.

    `has_search`: the search is finished; `lacks_paper`: a paper was wanted and there is none.
    """
    code = end.code if end.signal is None else 128 + end.signal
    if not has_search and facts.has_no_working_program:
        return ProgramError(
            FailureCode.ALL_NODES_BUGGY, f"{PROGRAM}: no program of stage 1 worked within its iterations", code
        )
    if has_search and lacks_paper and (facts.is_finished or facts.has_no_paper):
        return ProgramError(
            FailureCode.LATEX_ERROR,
            f"{PROGRAM} finished its experiments and made no PDF in its attempts to write the paper. "
            "`runs reset` repeats figures and paper without experiments",
            code,
        )
    if has_search and (facts.is_finished or has_failed_review(end, facts)):
        return None
    found = _named_error(facts.last_error)
    if found is not None:
        return ProgramError(found, f"{PROGRAM}: {facts.last_error}", code)
    if end.code == 0:
        what = "before its search was finished" if not has_search else "before its end"
        return ProgramError(FailureCode.USER_ERROR, f"{PROGRAM} ended {what}", 0)
    failure = failure_of(end, PROGRAM)
    hint = "; no program of its search worked" if not has_search and not has_good_node else ""
    last = f": {facts.last_error}" if facts.last_error else ""
    return ProgramError(failure.code, f"{failure.message}{hint}{last}", failure.exit_code)


def has_failed_review(end: CommandEnd, facts: OutputFacts) -> bool:
    """Whether the paper is there and only its review ended with an exception.

    The paper is a result, and a person decides about it.
    """
    is_exception = end.signal is None and end.code == 1 and bool(facts.last_error)
    return facts.is_paper_found and not facts.is_review_done and not facts.is_finished and is_exception


def _named_error(line: str) -> FailureCode | None:
    if is_disk_full(line):
        return FailureCode.DISK_FULL
    return next((code for start, code in _ERRORS if line.startswith(start)), None)
