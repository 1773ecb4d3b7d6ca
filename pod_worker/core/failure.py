"""Every way a run can fail, named once, with the consequences of each name.

`FAILURE_POLICIES` is total over `FailureCode`: whether a retry can help, whose fault it was, how long to wait.
`classify` turns any exception into a `Failure`. It recognises exceptions of other libraries by type name and text,
so that nothing here imports torch, requests or an LLM client.
"""

from __future__ import annotations

import random
import traceback as tracebacks
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from pod_worker.core.backoff import full_jitter

MESSAGE_LIMIT = 2_000
TRACEBACK_LIMIT = 16_000


class FailureCode(StrEnum):
    USER_ERROR = "USER_ERROR"
    INVALID_INPUT = "INVALID_INPUT"
    ENVIRONMENT = "ENVIRONMENT"
    BAD_DOCUMENT = "BAD_DOCUMENT"
    MAX_DURATION = "MAX_DURATION"
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
    """Who caused a failure.

    Failures of USER and MODEL count as retries, those of INFRA as crashes.
    """

    USER = "user"  # the run's input or code
    INFRA = "infra"  # the machine, the network or a service; progress clears the count
    MODEL = "model"  # code or text that a model wrote
    POISON = "poison"  # final, whatever attempts are left


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    is_retryable: bool
    failure_class: FailureClass
    backoff_seconds: float = 0.0  # upper bound of the first delay; doubles with each retry
    backoff_cap_seconds: float = 900.0
    hint: str  # what a person can do about it; shown by `runs why`


def _final(failure_class: FailureClass, hint: str) -> FailurePolicy:
    return FailurePolicy(is_retryable=False, failure_class=failure_class, hint=hint)


def _retried(
    failure_class: FailureClass, hint: str, *, backoff_seconds: float, cap_seconds: float = 900.0
) -> FailurePolicy:
    return FailurePolicy(
        is_retryable=True,
        failure_class=failure_class,
        backoff_seconds=backoff_seconds,
        backoff_cap_seconds=cap_seconds,
        hint=hint,
    )


_C = FailureCode
_USER, _INFRA = FailureClass.USER, FailureClass.INFRA
_MODEL, _POISON = FailureClass.MODEL, FailureClass.POISON

FAILURE_POLICIES: dict[FailureCode, FailurePolicy] = {
    _C.USER_ERROR: _final(_USER, "Fix the run's input as the message says, then reset the run."),
    _C.INVALID_INPUT: _final(_USER, "Correct the input that the message names, then reset the run."),
    _C.ENVIRONMENT: _retried(
        _INFRA,
        "The software or hardware of this pod cannot do the work. Another pod may; check this pod's image.",
        backoff_seconds=30,
    ),
    _C.BAD_DOCUMENT: _final(
        _POISON, "Correct the field of the stored document that the message names, then reset the run."
    ),
    _C.MAX_DURATION: _final(_USER, "Raise the run's max_duration or shorten the work, then reset the run."),
    _C.ALL_NODES_BUGGY: _final(_MODEL, "Simplify the idea or use a stronger model."),
    _C.MAX_ITERATIONS: _final(_MODEL, "Raise the iteration limit or narrow the goal."),
    _C.CUDA_OOM: _final(_USER, "Lower batch_size or max_length, use 4-bit, or request more GPU memory."),
    _C.HOST_OOM: _retried(
        _USER, "The machine ran out of memory. Use a larger pod or a smaller data set.", backoff_seconds=30
    ),
    _C.GPU_ERROR: _retried(
        _INFRA, "The GPU failed. The run is retried automatically, if possible on another pod.", backoff_seconds=30
    ),
    _C.GPU_UNAVAILABLE: _retried(_INFRA, "The pod has no usable GPU. Replace the pod.", backoff_seconds=60),
    _C.STAGE_TIMEOUT: _retried(
        _USER,
        "The stage waited too long for something. Its log says for what; remove the cause or shorten the work.",
        backoff_seconds=30,
    ),
    _C.NETWORK: _retried(
        _INFRA, "A network connection failed. The run is retried automatically.", backoff_seconds=10
    ),
    _C.LLM_RATE_LIMIT: _retried(
        _INFRA,
        "The LLM provider limits the request rate. The run is retried automatically.",
        backoff_seconds=30,
        cap_seconds=1800,
    ),
    _C.LLM_AUTH: _final(_USER, "Set a valid OPENAI_API_KEY or ANTHROPIC_API_KEY, then reset the run."),
    _C.LLM_ERROR: _retried(
        _INFRA, "The LLM provider failed. The run is retried automatically.", backoff_seconds=20
    ),
    _C.STORAGE: _retried(
        _INFRA,
        "The object store refused an artifact. The run is retried automatically.",
        backoff_seconds=20,
    ),
    _C.DISK_FULL: _retried(_INFRA, "Free disk space on the pod or rent a larger disk.", backoff_seconds=60),
    _C.LATEX_ERROR: _final(_MODEL, "Read the LaTeX log among the artifacts."),
    _C.WORKER_LOST: _retried(_INFRA, "The worker died. Another worker takes the run over.", backoff_seconds=0),
    _C.PREEMPTED: _retried(
        _INFRA, "The provider took the pod back. Another worker takes the run over.", backoff_seconds=0
    ),
    _C.CRASHED_SIGNAL: _retried(
        _INFRA, "A signal ended the run's process. Read the end of its log.", backoff_seconds=15
    ),
    _C.BUDGET_EXCEEDED: _final(_POISON, "Raise the budget, then reset the run."),
    _C.POISON: _final(_POISON, "Read the errors of its attempts, remove their cause, then reset the run."),
    _C.CANCELED: _final(_POISON, "The run was canceled. `runs reset` queues it again."),
    _C.INTERNAL: _retried(
        _INFRA, "A defect of pod_worker. Report it with the traceback; the run is retried.", backoff_seconds=30
    ),
}


@dataclass(frozen=True, slots=True)
class Failure:
    code: FailureCode
    message: str
    stage: str | None = None
    traceback: str | None = None
    exit_code: int | None = None  # of the user's program; 128 + N after signal N

    @property
    def policy(self) -> FailurePolicy:
        return FAILURE_POLICIES[self.code]

    def at(self, stage: str) -> Failure:
        return self if self.stage else replace(self, stage=stage)


def known_failure(code: str | None, exit_code: int | None = None) -> Failure | None:
    """The failure that a run's document names; None for no code or a foreign one."""
    if code is None or code not in FailureCode.__members__:
        return None
    return Failure(FailureCode(code), "", exit_code=exit_code)


class RunError(Exception):
    """Raised by a stage that knows the cause; `classify` names every other exception."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ProgramError(RunError):
    """A program of the user failed: its output has the cause, our traceback has not."""

    def __init__(self, code: FailureCode, message: str, exit_code: int | None = None) -> None:
        super().__init__(code, message)
        self.exit_code = exit_code  # 128 + N after signal N


class Interruption(BaseException):
    """A request to stop, not an error.

    Not an `Exception`, so that no `except Exception` catches it.
    """


class CancelRequested(Interruption):
    """A person canceled the run."""


class DrainRequested(Interruption):
    """The worker shuts down: stop at a safe point; the run returns to the queue."""


def backoff_seconds(code: FailureCode, retries: int, rng: random.Random) -> float:
    """Seconds to wait before a retry: full jitter within the code's policy.

    `retries` counts from 0.
    """
    policy = FAILURE_POLICIES[code]
    return full_jitter(retries, policy.backoff_seconds, policy.backoff_cap_seconds, rng)


def classify(error: BaseException, stage: str | None = None) -> Failure:
    """The failure for any exception: the most specific one of its chain decides."""
    code = next((found for link in _chain(error) if (found := _code_of(link))), _fallback(error))
    text = str(error) or type(error).__name__
    if not isinstance(error, RunError):
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, ProgramError):
        return Failure(code, truncate(text, MESSAGE_LIMIT), stage, None, error.exit_code)
    return Failure(code, truncate(text, MESSAGE_LIMIT), stage, _trace(error))


def _trace(error: BaseException) -> str:
    return truncate("".join(tracebacks.format_exception(error)), TRACEBACK_LIMIT, keep_end=True)


def truncate(text: str, limit: int, keep_end: bool = False) -> str:
    """At most `limit` characters and a note of how many were cut."""
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
