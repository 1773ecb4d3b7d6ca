"""Caps on what a run may spend, checked before each call.

A call is reserved at the most that it can use: its prompt's tokens and `max_output_tokens`. When open reservations
alone would pass a cap, the caller waits until one is settled. Only a call that cannot fit at all is refused.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, TokenUsage
from pod_worker.core.stage import StopSignal
from pod_worker.llm.spending.ledger import (
    CallLabels,
    CallLedger,
    CallStatus,
    ReserveRow,
    Spending,
    reserved_spending,
)

MICRO = 1_000_000
BYTES_PER_TOKEN = 3  # of UTF-8: more tokens than any usual tokenizer counts in prose or code
_MESSAGE_TOKENS = 8
_IMAGE_TOKENS = 1_600  # of one picture, at most, with Anthropic and OpenAI at full size
_WAIT_SECONDS = 0.1
_NO_USAGE = TokenUsage()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendCaps:
    """Of a run, over all its attempts; None: no cap."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    wall_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("usd", "tokens", "calls", "wall_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:  # also refuses NaN
                raise RunError(FailureCode.INVALID_INPUT, f"the cap on {name} must be at least 0, not {value}")


def prompt_tokens(messages: tuple[ChatMessage, ...], extra_text: str = "") -> int:
    """An upper estimate: characters of UTF-8 divided by three."""
    size = sum(len(each.text.encode()) for each in messages) + len(extra_text.encode())
    images = sum(len(each.images) for each in messages)
    return -(-size // BYTES_PER_TOKEN) + _MESSAGE_TOKENS * len(messages) + _IMAGE_TOKENS * images


class SpendLimits:
    """Reserves and settles calls in the ledger, within the caps.

    Safe for several threads.
    """

    def __init__(self, caps: SpendCaps, ledger: CallLedger, stop: StopSignal) -> None:
        self._caps = caps
        self._ledger = ledger
        self._stop = stop
        self._changed = threading.Condition()
        self._live: set[tuple[int, int]] = set()  # reserved by this process, not yet settled

    def reserve(self, labels: CallLabels, usage: TokenUsage, micro_usd: int | None) -> ReserveRow:
        """Raises RunError(BUDGET_EXCEEDED); then nothing was sent.

        May wait for other calls to be settled.
        """
        needed = Spending(micro_usd or 0, usage.input_tokens, usage.output_tokens, calls=1)
        with self._changed:
            while problem := self._problem(needed):
                # What other live calls hold is mostly given back. Without them the cap is really reached.
                if not self._live or self._problem(needed, without_live=True):
                    raise RunError(FailureCode.BUDGET_EXCEEDED, problem)
                self._stop.check()
                self._changed.wait(_WAIT_SECONDS)
            row = self._ledger.reserve(labels, usage, micro_usd)
            self._live.add((row.session, row.number))
        return row

    def settle(
        self,
        row: ReserveRow,
        status: CallStatus,
        usage: TokenUsage = _NO_USAGE,
        micro_usd: int | None = 0,
        *,
        call_seconds: float = 0.0,
        detail: str = "",
    ) -> None:
        with self._changed:
            try:
                self._ledger.settle(row, status, usage, micro_usd, call_seconds=call_seconds, detail=detail)
            finally:  # on a full disk the call stays as reserved, and others must not wait for it
                self._live.discard((row.session, row.number))
                self._changed.notify_all()

    def _problem(self, needed: Spending, without_live: bool = False) -> str | None:
        """The cap that the call would pass, in words."""
        spent = self._ledger.total()
        if without_live:
            for row in self._ledger.open_reservations():
                if (row.session, row.number) in self._live:
                    spent = _minus(spent, reserved_spending(row))
        caps = self._caps
        if caps.usd is not None and spent.micro_usd + needed.micro_usd > round(caps.usd * MICRO):
            return (
                f"the run has spent {_usd(spent.micro_usd)} of {caps.usd:.2f} USD, and the next call may cost "
                f"{_usd(needed.micro_usd)} USD. Raise the cap on money or lower max_output_tokens."
            )
        if caps.tokens is not None and spent.tokens + needed.tokens > caps.tokens:
            return (
                f"the run has used {spent.tokens} of {caps.tokens} tokens, and the next call may use "
                f"{needed.tokens}. Raise the cap on tokens."
            )
        if caps.calls is not None and spent.calls + needed.calls > caps.calls:
            return f"the run has made {spent.calls} of {caps.calls} model calls. Raise the cap on calls."
        elapsed = self._ledger.elapsed_seconds()
        if caps.wall_seconds is not None and elapsed >= caps.wall_seconds:
            return f"the run has taken {elapsed:.0f} of {caps.wall_seconds:.0f} s. Raise the cap on wall time."
        return None


def _usd(micro_usd: int) -> str:
    return f"{micro_usd / MICRO:.4f}"


def _minus(total: Spending, part: Spending) -> Spending:
    return Spending(*(getattr(total, name) - getattr(part, name) for name in Spending.__slots__))
