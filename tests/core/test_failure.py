"""Every failure has a name, every name a rule, and what follows from the rule keeps its bounds."""

from __future__ import annotations

import errno
import random
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.failure import (
    FAILURE_POLICIES,
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    CancelRequested,
    DrainRequested,
    Failure,
    FailureClass,
    FailureCode,
    RunError,
    backoff_seconds,
    classify,
    truncate,
)

CODES = st.sampled_from(FailureCode)

# The contract's table of codes, in its words.
CONTRACT = """USER_ERROR, INVALID_INPUT, ENVIRONMENT, BAD_DOCUMENT, MAX_DURATION, ALL_NODES_BUGGY, MAX_ITERATIONS, CUDA_OOM, HOST_OOM, GPU_ERROR,
GPU_UNAVAILABLE, STAGE_TIMEOUT, NETWORK, LLM_RATE_LIMIT, LLM_AUTH, LLM_ERROR, STORAGE, DISK_FULL, LATEX_ERROR,
WORKER_LOST, PREEMPTED, CRASHED_SIGNAL, BUDGET_EXCEEDED, POISON, CANCELED, INTERNAL"""


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_code_of_the_contract_has_one_policy() -> None:
    codes = {word.strip() for word in CONTRACT.replace("\n", " ").split(",")}
    assert {code.value for code in FailureCode} == codes
    assert FAILURE_POLICIES.keys() == set(FailureCode)
    for code in FailureCode:
        assert code.value == code.name
        assert Failure(code, "x").policy is FAILURE_POLICIES[code]


@pytest.mark.parametrize("code", FailureCode)
def test_each_policy_is_coherent(code: FailureCode) -> None:
    policy = FAILURE_POLICIES[code]
    assert len(policy.hint) > 10, "a person must learn what to do"
    assert 0 <= policy.backoff_seconds <= policy.backoff_cap_seconds <= 3600
    if policy.failure_class is FailureClass.POISON:
        assert not policy.is_retryable, "poison is final"
    if policy.failure_class is FailureClass.INFRA:
        assert policy.is_retryable, "the machine's fault ends with another machine, or as POISON"
    if not policy.is_retryable:
        assert policy.backoff_seconds == 0, "nothing waits for a retry that never comes"


# ── backoff ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(CODES, st.integers(0, 10**6), st.integers())
def test_backoff_stays_within_its_bounds_whatever_the_count(code: FailureCode, retries: int, seed: int) -> None:
    policy = FAILURE_POLICIES[code]
    delay = backoff_seconds(code, retries, random.Random(seed))
    assert 0 <= delay <= policy.backoff_cap_seconds
    assert delay <= policy.backoff_seconds * 2 ** min(retries, 30)


def test_backoff_is_full_jitter_and_doubles() -> None:
    """Uniform from zero: two workers that failed together do not come back together."""
    rng = random.Random(7)
    for retries in range(4):
        bound = FAILURE_POLICIES[FailureCode.NETWORK].backoff_seconds * 2**retries
        drawn = [backoff_seconds(FailureCode.NETWORK, retries, rng) for _ in range(2000)]
        assert min(drawn) < 0.05 * bound
        assert max(drawn) > 0.95 * bound
        assert 0.45 * bound < sum(drawn) / len(drawn) < 0.55 * bound


# ── naming ──────────────────────────────────────────────────────────────────────────────────────────────────


def foreign(module: str, name: str, *bases: type[Exception]) -> type[Exception]:
    """An exception class as another library defines it, without the library."""
    kind = type(name, bases or (Exception,), {})
    kind.__module__ = module
    return kind


OPENAI = foreign("openai", "OpenAIError")
TORCH_OOM = foreign("torch", "OutOfMemoryError", RuntimeError)
REQUESTS = foreign("requests.exceptions", "RequestException", OSError)
PYMONGO = foreign("pymongo.errors", "ConnectionFailure")
MINIO = foreign("minio.error", "MinioException")

TABLE: list[tuple[BaseException, FailureCode]] = [
    (RunError(FailureCode.LATEX_ERROR, "x"), FailureCode.LATEX_ERROR),
    (CancelRequested(), FailureCode.CANCELED),
    (DrainRequested(), FailureCode.PREEMPTED),
    (TORCH_OOM("Tried to allocate 2 GiB"), FailureCode.CUDA_OOM),
    (foreign("torch.cuda", "OutOfMemoryError", RuntimeError)("x"), FailureCode.CUDA_OOM),
    (RuntimeError("CUDA out of memory. Tried to allocate"), FailureCode.CUDA_OOM),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), FailureCode.CUDA_OOM),
    (RuntimeError("No CUDA GPUs are available"), FailureCode.GPU_UNAVAILABLE),
    (RuntimeError("CUDA error: no kernel image is available"), FailureCode.GPU_UNAVAILABLE),
    (RuntimeError("CUDA error: device-side assert triggered"), FailureCode.GPU_ERROR),
    (RuntimeError("NCCL communicator was aborted"), FailureCode.GPU_ERROR),
    (MemoryError(), FailureCode.HOST_OOM),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureCode.HOST_OOM),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureCode.HOST_OOM),
    (OSError(errno.ENOSPC, "No space left on device"), FailureCode.DISK_FULL),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), FailureCode.DISK_FULL),
    (foreign("sqlite3", "OperationalError")("database or disk is full"), FailureCode.DISK_FULL),
    (foreign("openai", "RateLimitError", OPENAI)("429"), FailureCode.LLM_RATE_LIMIT),
    (foreign("openai", "AuthenticationError", OPENAI)("401"), FailureCode.LLM_AUTH),
    (foreign("openai", "PermissionDeniedError", OPENAI)("403"), FailureCode.LLM_AUTH),
    (foreign("openai", "APIConnectionError", OPENAI)("x"), FailureCode.LLM_ERROR),
    (foreign("anthropic", "RateLimitError")("429"), FailureCode.LLM_RATE_LIMIT),
    (foreign("anthropic", "AnthropicError")("x"), FailureCode.LLM_ERROR),
    (foreign("minio.error", "S3Error", MINIO)("x"), FailureCode.STORAGE),
    (foreign("requests.exceptions", "ReadTimeout", REQUESTS)("x"), FailureCode.NETWORK),
    (foreign("httpx", "ConnectError", foreign("httpx", "TransportError"))("x"), FailureCode.NETWORK),
    (foreign("pymongo.errors", "AutoReconnect", PYMONGO)(), FailureCode.NETWORK),
    (ConnectionResetError("x"), FailureCode.NETWORK),
    (socket.gaierror("x"), FailureCode.NETWORK),
    (subprocess.TimeoutExpired("x", 1), FailureCode.STAGE_TIMEOUT),
    (TimeoutError("x"), FailureCode.STAGE_TIMEOUT),
    (AssertionError("x"), FailureCode.INTERNAL),
    (NotImplementedError("x"), FailureCode.INTERNAL),
    (ValueError("x"), FailureCode.USER_ERROR),
    (KeyError("x"), FailureCode.USER_ERROR),
    (RuntimeError("x"), FailureCode.USER_ERROR),
    (SystemExit(1), FailureCode.USER_ERROR),
    (KeyboardInterrupt(), FailureCode.USER_ERROR),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), TABLE, ids=lambda value: repr(value)[:50])
def test_an_exception_is_named_by_its_type_or_its_text(error: BaseException, code: FailureCode) -> None:
    failure = classify(error, "Stage_1")
    assert failure.code is code
    assert failure.stage == "Stage_1"
    assert failure.message
    assert failure.traceback


def raised(error: BaseException, cause: BaseException | None, suppress: bool = False) -> BaseException:
    try:
        try:
            raise cause or ValueError("inner")
        except BaseException as inner:
            if suppress:
                raise error from None
            raise error from inner
    except BaseException as outer:
        return outer


def test_a_wrapper_without_a_name_of_its_own_takes_its_causes() -> None:
    assert classify(raised(ValueError("training failed"), TORCH_OOM("x"))).code is FailureCode.CUDA_OOM
    assert classify(raised(RuntimeError("save failed"), OSError(errno.ENOSPC, "x"))).code is FailureCode.DISK_FULL
    assert classify(raised(RunError(FailureCode.STORAGE, "x"), ConnectionError())).code is FailureCode.STORAGE


def test_a_cause_that_was_hidden_on_purpose_does_not_count() -> None:
    assert classify(raised(ValueError("x"), TORCH_OOM("x"), suppress=True)).code is FailureCode.USER_ERROR


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(first).code is FailureCode.USER_ERROR


def test_messages_and_tracebacks_are_cut_and_say_so() -> None:
    failure = classify(ValueError("x" * 100_000))
    assert len(failure.message) <= MESSAGE_LIMIT + 40
    assert "characters cut" in failure.message
    assert failure.traceback is not None
    assert len(failure.traceback) <= TRACEBACK_LIMIT + 40


@given(st.text(max_size=300), st.integers(1, 200), st.booleans())
def test_cut_keeps_what_fits_and_the_wanted_end(text: str, limit: int, keep_end: bool) -> None:
    kept = truncate(text, limit, keep_end)
    if len(text) <= limit:
        assert kept == text
    else:
        assert kept.endswith(text[-limit:]) if keep_end else kept.startswith(text[:limit])
        assert f"[{len(text) - limit} characters cut]" in kept


def test_the_innermost_known_stage_stays() -> None:
    failure = Failure(FailureCode.USER_ERROR, "x")
    assert failure.at("a").stage == "a"
    assert failure.at("a").at("b").stage == "a"
