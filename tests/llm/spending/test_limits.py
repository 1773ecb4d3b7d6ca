"""Caps: never passed, by any order of calls, in any number of threads or attempts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, Image, TokenUsage
from pod_worker.llm.spending.ledger import CallLabels, CallLedger, CallStatus
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits, prompt_tokens
from tests.llm.requests_and_answers import MODEL, Stop

LABELS = CallLabels(operation="node.draft", model=MODEL, provider="openai", key="k")


@dataclass(frozen=True)
class Call:
    reserved: TokenUsage
    used: TokenUsage
    end: str  # answered | unknown | refused | killed


USAGES = st.builds(TokenUsage, st.integers(0, 500), st.integers(0, 500))
CALLS = st.lists(
    st.builds(Call, USAGES, USAGES, st.sampled_from(["answered", "unknown", "refused", "killed"])), max_size=12
)
CAPS = st.builds(
    SpendCaps,
    usd=st.none() | st.floats(0, 0.01),
    tokens=st.none() | st.integers(0, 5_000),
    calls=st.none() | st.integers(0, 10),
)


def cost(usage: TokenUsage) -> int:
    return 3 * usage.input_tokens + 15 * usage.output_tokens


@settings(max_examples=40)
@given(caps=CAPS, calls=CALLS, data=st.data())
def test_spending_passes_no_cap_by_more_than_what_a_call_used_beyond_its_reservation(caps, calls, data) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.ndjson"
        ledger = CallLedger(path, ManualClock())
        limits = SpendLimits(caps, ledger, Stop())
        beyond_usd = beyond_tokens = 0
        highest = 0
        for call in calls:
            before = ledger.total()
            if _would_pass(caps, before, call.reserved):
                with pytest.raises(RunError) as caught:
                    limits.reserve(LABELS, call.reserved, cost(call.reserved))
                assert caught.value.code is FailureCode.BUDGET_EXCEEDED
                assert ledger.total() == before
                continue
            row = limits.reserve(LABELS, call.reserved, cost(call.reserved))
            if call.end == "answered":
                limits.settle(row, CallStatus.ANSWERED, call.used, cost(call.used))
                beyond_usd += max(0, cost(call.used) - cost(call.reserved))
                beyond_tokens += max(0, _tokens(call.used) - _tokens(call.reserved))
            elif call.end == "unknown":
                limits.settle(row, CallStatus.UNKNOWN, call.reserved, cost(call.reserved))
            elif call.end == "refused":
                limits.settle(row, CallStatus.REFUSED)
            if call.end == "killed" or data.draw(st.booleans()):
                ledger.close()
                ledger = CallLedger(path, ManualClock())
                limits = SpendLimits(caps, ledger, Stop())
            total = ledger.total()
            assert total.micro_usd >= highest, "what was spent is never forgotten"
            highest = total.micro_usd
            assert caps.usd is None or total.micro_usd <= round(caps.usd * 1e6) + beyond_usd
            assert caps.tokens is None or total.tokens <= caps.tokens + beyond_tokens
            assert caps.calls is None or total.calls <= caps.calls
        ledger.close()


def _tokens(usage: TokenUsage) -> int:
    return usage.input_tokens + usage.output_tokens


def _would_pass(caps: SpendCaps, spent, needed: TokenUsage) -> bool:
    return (
        (caps.usd is not None and spent.micro_usd + cost(needed) > round(caps.usd * 1e6))
        or (caps.tokens is not None and spent.tokens + _tokens(needed) > caps.tokens)
        or (caps.calls is not None and spent.calls + 1 > caps.calls)
    )


def test_threads_wait_for_reservations_that_will_be_given_back(tmp_path: Path) -> None:
    """Each call reserves 10 and uses 2: eight of them fit under a cap of 24, but only two at a time."""
    ledger = CallLedger(tmp_path / "ledger.ndjson", SystemClock())
    limits = SpendLimits(SpendCaps(usd=24e-6), ledger, Stop())
    live, most = 0, 0
    lock = threading.Lock()

    def call(_: int) -> None:
        nonlocal live, most
        row = limits.reserve(LABELS, TokenUsage(1, 1), 10)
        with lock:
            live += 1
            most = max(most, live)
        with lock:
            live -= 1
        limits.settle(row, CallStatus.ANSWERED, TokenUsage(1, 1), 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert ledger.total().micro_usd == 16
    assert most <= 2


def test_a_call_that_can_never_fit_is_refused_at_once(tmp_path: Path) -> None:
    limits = SpendLimits(SpendCaps(usd=24e-6), CallLedger(tmp_path / "l", SystemClock()), Stop())
    limits.reserve(LABELS, TokenUsage(1, 1), 10)  # live
    with pytest.raises(RunError) as caught:
        limits.reserve(LABELS, TokenUsage(1, 1), 25)
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED


def test_a_stop_ends_the_wait_for_a_reservation(tmp_path: Path) -> None:
    stop = Stop()
    limits = SpendLimits(SpendCaps(calls=1), CallLedger(tmp_path / "l", SystemClock()), stop)
    limits.reserve(LABELS, TokenUsage(1, 1), 10)  # live
    stop.reason = CancelRequested
    with pytest.raises(CancelRequested):
        limits.reserve(LABELS, TokenUsage(1, 1), 10)


def test_wall_time_is_capped_over_attempts(tmp_path: Path) -> None:
    clock = ManualClock()
    ledger = CallLedger(tmp_path / "l", clock)
    clock.advance(50)
    ledger.record_cached(LABELS)
    ledger.close()
    resumed = CallLedger(tmp_path / "l", clock)
    limits = SpendLimits(SpendCaps(wall_seconds=60), resumed, Stop())
    limits.settle(limits.reserve(LABELS, TokenUsage(), 0), CallStatus.REFUSED)
    clock.advance(10)
    with pytest.raises(RunError, match="60 of 60 s"):
        limits.reserve(LABELS, TokenUsage(), 0)


@pytest.mark.parametrize("name", ["usd", "tokens", "calls", "wall_seconds"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_cap_that_is_no_cap_is_refused(name: str, value: float) -> None:
    with pytest.raises(RunError, match=name):
        SpendCaps(**{name: value})


def test_a_prompt_is_estimated_from_above() -> None:
    text = "def mean(values): return sum(values) / len(values)\n" * 20  # 14 tokens a line in usual tokenizers
    assert prompt_tokens((ChatMessage("user", text),)) > 20 * 14
    assert prompt_tokens((ChatMessage("user", "统计学" * 100),)) >= 300
    assert prompt_tokens((ChatMessage("user", "x", (Image("image/png", b""),)),)) > 1_600
