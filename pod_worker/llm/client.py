"""The client of a run: cache, caps, retries, checked JSON, ledger rows.

    complete ─► cache? ─► reserve ─► wire (retried) ─► cache ─► settle ─► check ─► ask again, at most twice

Each wire call is cached by its own request, the repeated questions too, so a killed and resumed run repeats none.
Requests that are equal and in flight at the same time are one call.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pod_worker.core.backoff import full_jitter
from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.core.research.completion import ChatCompletion, CompletionRequest, TokenUsage
from pod_worker.core.stage import StopSignal
from pod_worker.llm.capability import OutputProfile, capability_of
from pod_worker.llm.response_cache import ResponseCache, request_key
from pod_worker.llm.server_schema import is_open
from pod_worker.llm.spending.ledger import CallLabels, CallLedger, CallStatus, ReserveRow, Spending
from pod_worker.llm.spending.limits import SpendLimits, prompt_tokens
from pod_worker.llm.spending.prices import FREE, ModelPrice, PriceList
from pod_worker.llm.structured_output import (
    AnswerProblem,
    asked_again,
    encodable,
    instructed,
    read_answer,
    without_images,
)
from pod_worker.llm.wire import Billing, WireAnswer, WireClient, WireError, WireRequest

ASKED_AGAIN_LIMIT = 2
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Of one wire call, while the error may pass."""

    attempts: int = 5
    first_seconds: float = 1.0
    cap_seconds: float = 60.0  # also of a Retry-After that is followed; a longer one ends the call


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    models: Mapping[str, str] = field(default_factory=dict)  # operation or its family (before the dot) -> model
    model: str | None = None  # for the others
    output: OutputProfile | None = None  # overrides what the table says of the model
    needs_price: bool = False  # a cap on money is set
    is_free: bool = False  # the scripted model
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    drain_seconds: float = 15.0  # a paid answer is awaited so long after a request to drain

    def model_for(self, request: CompletionRequest) -> str:
        """Raises RunError(INVALID_INPUT)."""
        family = request.operation.partition(".")[0]
        named = request.model or self.models.get(request.operation) or self.models.get(family) or self.model
        if not named:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"no model is set for {request.operation!r}. Set the parameter `model` of the run.",
            )
        return named


@dataclass(slots=True)
class _Flight:
    """A request that is being answered; all who ask the same wait for it."""

    done: threading.Event = field(default_factory=threading.Event)
    completion: ChatCompletion | None = None
    error: BaseException | None = None


class MeteredClient:
    """Implements `core.research.completion.CompletionClient`."""

    def __init__(
        self,
        wire: WireClient,
        *,
        ledger: CallLedger,
        limits: SpendLimits,
        cache: ResponseCache,
        prices: PriceList,
        settings: ClientSettings,
        stop: StopSignal,
        rng: random.Random | None = None,
    ) -> None:
        self._wire = wire
        self._ledger = ledger
        self._limits = limits
        self._cache = cache
        self._prices = prices
        self._settings = settings
        self._stop = stop
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._settle_answered_calls()

    @property
    def prices_sha256(self) -> str:
        return self._prices.sha256

    def total(self) -> Spending:
        return self._ledger.total()

    def operations(self) -> dict[str, Spending]:
        return self._ledger.operations()

    def close(self) -> None:
        self._wire.close()
        self._ledger.close()

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        """See `CompletionClient`.

        The call is made in a thread, so that a request to stop ends the wait.
        """
        self._stop.check()
        question = self._wire_request(request)
        key = self._key(question)
        with self._lock:
            flight = self._flights.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if is_first:
            thread = threading.Thread(
                target=self._fly, args=(flight, key, request, question), name=f"llm-{key[:8]}", daemon=True
            )
            thread.start()
        self._wait(flight)
        if flight.error is not None:
            raise flight.error
        assert flight.completion is not None
        return flight.completion if is_first else replace(flight.completion, is_cached=True, micro_usd=0)

    def _wait(self, flight: _Flight) -> None:
        while not flight.done.wait(_POLL_SECONDS):
            try:
                self._stop.check()
            except DrainRequested:
                flight.done.wait(self._settings.drain_seconds)  # it is paid for: let it reach the cache
                raise

    def _fly(self, flight: _Flight, key: str, request: CompletionRequest, question: WireRequest) -> None:
        try:
            flight.completion = self._answer(request, question)
        except BaseException as error:
            flight.error = error
        finally:
            with self._lock:
                self._flights.pop(key, None)
            flight.done.set()

    def _answer(self, request: CompletionRequest, question: WireRequest) -> ChatCompletion:
        keys: list[str] = []
        paid, usage, is_cached = 0, TokenUsage(), True
        for _ in range(1 + ASKED_AGAIN_LIMIT):
            key = self._key(question)
            keys.append(key)
            answer = self._cache.find(key)
            if answer is None:
                is_cached = False
                answer, micro_usd = self._pay(request, question, key)
                paid += micro_usd
            else:
                self._ledger.record_cached(self._labels(request, question, key))
            usage = _sum(usage, answer.usage or TokenUsage())
            value = read_answer(answer, question)
            if not isinstance(value, AnswerProblem):
                return ChatCompletion(
                    text=answer.text,
                    value=None if question.schema is None else value,
                    model=answer.model or question.model,
                    usage=usage,
                    micro_usd=paid,
                    is_cached=is_cached,
                    is_scripted=answer.is_scripted,
                )
            question = asked_again(question, answer, value)
        self._cache.discard(keys)
        raise RunError(
            FailureCode.LLM_ERROR,
            f"model {question.model} gave no usable answer to {request.operation} in {len(keys)} calls: "
            f"{value.text}",
        )

    def _pay(self, request: CompletionRequest, question: WireRequest, key: str) -> tuple[WireAnswer, int]:
        """One call of the provider, retried while the error may pass."""
        policy = self._settings.retry
        for attempt in range(policy.attempts):
            self._stop.check()
            row = self._reserve(request, question, key)
            began = time.monotonic()
            try:
                answer = self._wire.send(question)
            except WireError as error:
                self._settle_error(row, error, time.monotonic() - began)
                if not error.is_transient or attempt + 1 == policy.attempts:
                    raise
                self._pause(error, attempt)
                continue
            except BaseException as error:  # a defect; the reservation must not stay open in this process
                self._settle_unknown(row, type(error).__name__, time.monotonic() - began)
                raise
            answer = replace(answer, text=encodable(answer.text), model=encodable(answer.model))
            # First the cache: a process killed after this line finds the answer and settles the row.
            self._cache.put(key, question.operation, answer)
            return answer, self._settle_answer(row, question.model, answer, time.monotonic() - began)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, error: WireError, attempt: int) -> None:
        policy = self._settings.retry
        asked = error.retry_after_seconds
        if asked is not None and asked > policy.cap_seconds:
            raise error
        seconds = (
            full_jitter(attempt, policy.first_seconds, policy.cap_seconds, self._rng) if asked is None else asked
        )
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._stop.check()
            time.sleep(min(left, _POLL_SECONDS))

    def _reserve(self, request: CompletionRequest, question: WireRequest, key: str) -> ReserveRow:
        schema = "" if question.schema is None else json.dumps(question.schema)
        usage = TokenUsage(prompt_tokens(question.messages, schema), question.max_output_tokens)
        price = self._price(question.model)
        micro_usd = None if price is None else price.worst_micro_usd(usage.input_tokens, usage.output_tokens)
        return self._limits.reserve(self._labels(request, question, key), usage, micro_usd)

    def _labels(self, request: CompletionRequest, question: WireRequest, key: str) -> CallLabels:
        return CallLabels(
            operation=request.operation,
            model=question.model,
            provider=self._wire.provider,
            key=key,
            stage=request.stage,
            node_id=request.node_id,
        )

    def _settle_answer(self, row: ReserveRow, model: str, answer: WireAnswer, seconds: float) -> int:
        """Record the cost of an answer, and return it.

        It is the reserved one where the server does not report usage.
        """
        usage, micro_usd = answer.usage, row.micro_usd
        if usage is None:
            usage = TokenUsage(row.input_tokens, row.output_tokens)
        elif (price := self._price(model)) is not None:
            micro_usd = price.micro_usd(usage)
        self._limits.settle(
            row,
            CallStatus.ANSWERED,
            usage,
            micro_usd,
            call_seconds=seconds,
            detail=answer.finish.value,
        )
        return micro_usd or 0

    def _settle_error(self, row: ReserveRow, error: WireError, seconds: float) -> None:
        if error.billing is Billing.NOTHING:
            self._limits.settle(row, CallStatus.REFUSED, call_seconds=seconds, detail=error.code.value)
        else:
            self._settle_unknown(row, error.code.value, seconds)

    def _settle_unknown(self, row: ReserveRow, detail: str, seconds: float) -> None:
        """Sent, and the cost is not known: count what was reserved."""
        usage = TokenUsage(row.input_tokens, row.output_tokens)
        self._limits.settle(row, CallStatus.UNKNOWN, usage, row.micro_usd, call_seconds=seconds, detail=detail)

    def _settle_answered_calls(self) -> None:
        """Settle calls whose process was killed after the answer was cached.

        An answer that has a row belongs to another call of the same request; the open one stays as reserved.
        """
        for row in self._ledger.open_reservations():
            answer = None if self._ledger.is_answered(row.key) else self._cache.find(row.key)
            if answer is not None:
                self._settle_answer(row, row.model, answer, 0.0)

    def _wire_request(self, request: CompletionRequest) -> WireRequest:
        model = self._settings.model_for(request)
        if self._settings.needs_price:
            self._price(model)
        capability = capability_of(model, self._settings.output)
        if capability.output is OutputProfile.JSON_SCHEMA and is_open(request.schema):
            capability = replace(capability, output=OutputProfile.JSON_OBJECT)
        messages = tuple(replace(each, text=encodable(each.text)) for each in request.messages)
        messages = messages if capability.takes_images else without_images(messages)
        return WireRequest(
            operation=request.operation,
            model=model,
            messages=instructed(messages, request.schema, capability),
            capability=capability,
            schema=request.schema,
            temperature=request.temperature,
            max_output_tokens=request.max_output_tokens,
            sample=request.sample,
            facts=request.facts,
        )

    def _price(self, model: str) -> ModelPrice | None:
        """Raises RunError(INVALID_INPUT) for an unknown price under a cap on money."""
        if self._settings.is_free:
            return FREE
        return self._prices.require(model) if self._settings.needs_price else self._prices.find(model)

    def _key(self, question: WireRequest) -> str:
        return request_key(question, self._wire.takes_facts)


def _sum(left: TokenUsage, right: TokenUsage) -> TokenUsage:
    return TokenUsage(
        left.input_tokens + right.input_tokens,
        left.output_tokens + right.output_tokens,
        left.cached_tokens + right.cached_tokens,
    )
