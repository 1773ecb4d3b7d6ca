"""Every way a run can fail, named once, and what follows from each name.

`RULES` is total over `FailureCode`: whether a retry can help, whose fault it was (and so whose budget it
spends), and how long to wait. `classify` turns any exception into a `Failure`; it knows foreign exceptions by
type name and text, so that nothing here imports torch, requests or an LLM client.
"""

from __future__ import annotations

import random
import traceback as tracebacks
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

MESSAGE_LIMIT = 2_000
TRACEBACK_LIMIT = 16_000


class FailureCode(StrEnum):
    USER_ERROR = "USER_ERROR"
    INVALID_INPUT = "INVALID_INPUT"
    ALL_NODES_BUGGY = "ALL_NODES_BUGGY"
    MAX_ITERATIONS = "MAX_ITERATIONS"
    CUDA_OOM = "CUDA_OOM"
    HOST_OOM = "HOST_OOM"
    GPU_ERROR = "GPU_ERROR"
    GPU_UNAVAILABLE = "GPU_UNAVAILABLE"
    STAGE_TIMEOUT = "STAGE_TIMEOUT"
    NETWORK = "NETWORK"
    LLM_RATE_LIMIT = "LLM_RATE_LIMIT"
    LLM_AUTH = "LLM_AUTH"
    LLM_ERROR = "LLM_ERROR"
    STORAGE = "STORAGE"
    DISK_FULL = "DISK_FULL"
    LATEX_ERROR = "LATEX_ERROR"
    WORKER_LOST = "WORKER_LOST"
    PREEMPTED = "PREEMPTED"
    CRASHED_SIGNAL = "CRASHED_SIGNAL"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    POISON = "POISON"
    CANCELED = "CANCELED"
    INTERNAL = "INTERNAL"


class FailureClass(StrEnum):
    """Whose budget a failure spends."""

    USER = "user"  # the run's own doing: spends maxAttempts
    INFRA = "infra"  # the machine's doing: spends the crash budget, never the user's attempts
    MODEL = "model"  # what a model wrote did not work: spends maxAttempts
    POISON = "poison"  # final, whatever budgets are left


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    retryable: bool
    failure_class: FailureClass
    backoff_seconds: float = 0.0  # first delay's upper bound; doubles with each retry
    backoff_cap_seconds: float = 900.0
    hint: str = ""  # what a person can do about it; shown by `runs why`


_USER, _INFRA = FailureClass.USER, FailureClass.INFRA
_MODEL, _POISON = FailureClass.MODEL, FailureClass.POISON

FAILURE_POLICIES: dict[FailureCode, FailurePolicy] = {
    FailureCode.USER_ERROR: FailurePolicy(
        False, _USER, hint="Read the message, mend the run's input, then reset it."
    ),
    FailureCode.INVALID_INPUT: FailurePolicy(
        False, _USER, hint="Mend the input that the message names, then reset."
    ),
    FailureCode.ALL_NODES_BUGGY: FailurePolicy(False, _MODEL, hint="Simplify the idea or use a stronger model."),
    FailureCode.MAX_ITERATIONS: FailurePolicy(False, _MODEL, hint="Raise the iteration limit or narrow the goal."),
    FailureCode.CUDA_OOM: FailurePolicy(
        False, _USER, hint="Lower batch_size or max_length, use 4-bit, or ask for more GPU memory."
    ),
    FailureCode.HOST_OOM: FailurePolicy(
        True, _USER, 30, hint="The machine ran out of memory: use a larger pod or a smaller data set."
    ),
    FailureCode.GPU_ERROR: FailurePolicy(True, _INFRA, 30, hint="The GPU failed; another pod will try."),
    FailureCode.GPU_UNAVAILABLE: FailurePolicy(
        True, _INFRA, 60, hint="The pod has no usable GPU; replace the pod."
    ),
    FailureCode.STAGE_TIMEOUT: FailurePolicy(
        True, _USER, 30, hint="Raise the stage's time limit or shorten the work."
    ),
    FailureCode.NETWORK: FailurePolicy(True, _INFRA, 10, hint="A connection failed; it is tried again by itself."),
    FailureCode.LLM_RATE_LIMIT: FailurePolicy(True, _INFRA, 30, 1800, hint="The LLM provider is rate-limiting."),
    FailureCode.LLM_AUTH: FailurePolicy(False, _USER, hint="Set a valid OPENAI_API_KEY or ANTHROPIC_API_KEY."),
    FailureCode.LLM_ERROR: FailurePolicy(True, _INFRA, 20, hint="The LLM provider failed; it is tried again."),
    FailureCode.STORAGE: FailurePolicy(True, _INFRA, 20, hint="The object store did not take an artifact."),
    FailureCode.DISK_FULL: FailurePolicy(True, _INFRA, 60, hint="Free disk on the pod or raise its disk size."),
    FailureCode.LATEX_ERROR: FailurePolicy(False, _MODEL, hint="Read the LaTeX log among the artifacts."),
    FailureCode.WORKER_LOST: FailurePolicy(True, _INFRA, 0, hint="The worker died; another one takes over."),
    FailureCode.PREEMPTED: FailurePolicy(True, _INFRA, 0, hint="The pod was taken away; another one takes over."),
    FailureCode.CRASHED_SIGNAL: FailurePolicy(True, _INFRA, 15, hint="The run's process died of a signal."),
    FailureCode.BUDGET_EXCEEDED: FailurePolicy(False, _POISON, hint="Raise the budget, then reset the run."),
    FailureCode.POISON: FailurePolicy(
        False, _POISON, hint="It crashed too often. Read the last errors, then `runs reset` it."
    ),
    FailureCode.CANCELED: FailurePolicy(
        False, _POISON, hint="Somebody canceled it. `runs reset` queues it again."
    ),
    FailureCode.INTERNAL: FailurePolicy(
        True, _INFRA, 30, hint="A defect of pod_worker; the traceback says where."
    ),
}


@dataclass(frozen=True, slots=True)
class Failure:
    code: FailureCode
    message: str
    stage: str | None = None
    traceback: str | None = None

    @property
    def rule(self) -> FailurePolicy:
        return FAILURE_POLICIES[self.code]

    def at(self, stage: str) -> Failure:
        return self if self.stage else replace(self, stage=stage)


class RunError(Exception):
    """Raised by a stage that knows what went wrong; anything else is classified from the outside."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Interruption(BaseException):
    """Not an error: somebody asked the run to stop. Outside `Exception` so no `except Exception` eats it."""


class CancelRequested(Interruption):
    """A person canceled the run."""


class DrainRequested(Interruption):
    """The worker is going away; stop at the next safe point, the run goes back to the queue."""


def backoff_seconds(code: FailureCode, retries: int, rng: random.Random) -> float:
    """Full jitter: uniform in [0, min(cap, first * 2**retries)] (AWS Architecture Blog, 2015)."""
    rule = FAILURE_POLICIES[code]
    bound = min(rule.backoff_cap_seconds, rule.backoff_seconds * 2 ** min(retries, 30))
    return rng.uniform(0, bound)


def classify(error: BaseException, stage: str | None = None) -> Failure:
    """Name any exception. Looks at the whole cause chain; the most specific cause wins over its wrappers."""
    code = next((found for link in _chain(error) if (found := _code_of(link))), _fallback(error))
    text = str(error) or type(error).__name__
    if not isinstance(error, RunError):
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    trace = "".join(tracebacks.format_exception(error))
    return Failure(code, truncate(text, MESSAGE_LIMIT), stage, truncate(trace, TRACEBACK_LIMIT, keep_end=True))


def truncate(text: str, limit: int, keep_end: bool = False) -> str:
    """At most `limit` characters, saying how much was left out."""
    if len(text) <= limit:
        return text
    note = f"[{len(text) - limit} characters cut]"
    return f"{note}\n{text[-limit:]}" if keep_end else f"{text[:limit]} {note}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _fallback(error: BaseException) -> FailureCode:
    # A plain Python error inside a stage is the run's own code or input failing, unless it is ours.
    return (
        FailureCode.INTERNAL if isinstance(error, AssertionError | NotImplementedError) else FailureCode.USER_ERROR
    )


def _code_of(error: BaseException) -> FailureCode | None:
    if isinstance(error, RunError):
        return error.code
    if isinstance(error, CancelRequested):
        return FailureCode.CANCELED
    if isinstance(error, DrainRequested):
        return FailureCode.PREEMPTED
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        return FailureCode.DISK_FULL
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    text = str(error)
    return next((code for code, matches in _SIGNATURES if matches(names, text)), None)


def _type_is(*wanted: str) -> Callable[[set[str], str], bool]:
    return lambda names, _text: any(name.endswith(wanted) for name in names)


def _message_contains(*phrases: str, of: tuple[str, ...] = ("RuntimeError",)) -> Callable[[set[str], str], bool]:
    def matches(names: set[str], text: str) -> bool:
        return any(name.endswith(of) for name in names) and any(phrase in text for phrase in phrases)

    return matches


_SIGNATURES: tuple[tuple[FailureCode, Callable[[set[str], str], bool]], ...] = (
    (
        FailureCode.CUDA_OOM,
        _type_is("cuda.OutOfMemoryError", "torch.OutOfMemoryError", "torch._C.OutOfMemoryError"),
    ),
    (FailureCode.CUDA_OOM, _message_contains("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")),
    (
        FailureCode.GPU_UNAVAILABLE,
        _message_contains("No CUDA GPUs are available", "Found no NVIDIA driver", "no kernel image"),
    ),
    (
        FailureCode.GPU_ERROR,
        _message_contains("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "NCCL", "device-side assert"),
    ),
    (FailureCode.HOST_OOM, _type_is("builtins.MemoryError")),
    (
        FailureCode.HOST_OOM,
        _message_contains("can't allocate memory", "Cannot allocate memory", of=("RuntimeError", "OSError")),
    ),
    (
        FailureCode.DISK_FULL,
        _message_contains("No space left on device", "disk is full", of=("Error", "Exception")),
    ),
    (FailureCode.LLM_RATE_LIMIT, _type_is("openai.RateLimitError", "anthropic.RateLimitError")),
    (FailureCode.LLM_AUTH, _type_is("openai.AuthenticationError", "anthropic.AuthenticationError")),
    (FailureCode.LLM_AUTH, _type_is("openai.PermissionDeniedError", "anthropic.PermissionDeniedError")),
    (FailureCode.LLM_ERROR, _type_is("openai.OpenAIError", "anthropic.AnthropicError")),
    (FailureCode.STORAGE, _type_is("minio.error.MinioException", "minio.error.S3Error")),
    (FailureCode.STAGE_TIMEOUT, _type_is("subprocess.TimeoutExpired", "futures.TimeoutError")),
    (FailureCode.NETWORK, _type_is("requests.exceptions.RequestException", "urllib3.exceptions.HTTPError")),
    (FailureCode.NETWORK, _type_is("httpx.TransportError", "builtins.ConnectionError", "socket.gaierror")),
    (
        FailureCode.NETWORK,
        _type_is("pymongo.errors.ConnectionFailure", "ssl.SSLError", "http.client.HTTPException"),
    ),
    (FailureCode.STAGE_TIMEOUT, _type_is("builtins.TimeoutError")),
)
