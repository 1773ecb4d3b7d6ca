"""Builds the client of a run from plain values: provider, key, caps.

The settings are read by composition roots; nothing here looks at the environment.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.secret import Secret
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.stage import StopSignal
from pod_worker.llm.capability import read_profile, short_name
from pod_worker.llm.cassettes.cassette import CassetteError, Cassettes, CassetteWire
from pod_worker.llm.client import ClientSettings, MeteredClient, RetryPolicy
from pod_worker.llm.providers.anthropic_messages import AnthropicMessages
from pod_worker.llm.providers.openai_chat import OpenAiChat
from pod_worker.llm.providers.scripted_wire import MODEL, ScriptedWire
from pod_worker.llm.response_cache import ResponseCache
from pod_worker.llm.spending.ledger import CallLedger
from pod_worker.llm.spending.limits import SpendCaps, SpendLimits
from pod_worker.llm.spending.prices import load_prices
from pod_worker.llm.wire import WireClient

PROVIDERS = ("openai", "anthropic", "scripted", "replay")
LEDGER_FILE = "ledger.ndjson"
CACHE_FOLDER = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmConfig:
    """`repr` shows no key: they are Secrets."""

    provider: str | None = None  # POD_WORKER_LLM; None: by the model and the keys that are set
    openai_api_key: Secret | None = None
    openai_base_url: str | None = None
    anthropic_api_key: Secret | None = None
    anthropic_base_url: str | None = None
    model: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)  # operation or family -> model
    output: str | None = None  # POD_WORKER_LLM_OUTPUT
    prices: Path | None = None  # POD_WORKER_LLM_PRICES
    cassettes: Path | None = None  # POD_WORKER_LLM_CASSETTES, for `replay`
    timeout_seconds: float = 600.0  # of one call
    caps: SpendCaps = field(default_factory=SpendCaps)
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def open_client(
    config: LlmConfig,
    folder: Path,
    stop: StopSignal,
    *,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> MeteredClient:
    """The client of one run; `folder` (`research/llm`) keeps its ledger and its cache.

    Raises RunError: INVALID_INPUT, LLM_AUTH (no key).
    """
    used_clock = clock or SystemClock()
    provider = choose_provider(config)
    prices = load_prices(config.prices)
    wire = _open_wire(provider, config, used_clock)
    ledger = CallLedger(folder / LEDGER_FILE, used_clock, prices.sha256)
    return MeteredClient(
        wire,
        ledger=ledger,
        limits=SpendLimits(config.caps, ledger, stop),
        cache=ResponseCache(folder / CACHE_FOLDER),
        prices=prices,
        settings=_client_settings(provider, config),
        stop=stop,
        rng=rng,
    )


def check_config(config: LlmConfig) -> None:
    """Check provider, key, model, price and caps before the first call.

    Raises RunError.

    Sends nothing and writes nothing, so it also serves at enqueue.
    """
    provider = choose_provider(config)
    settings = _client_settings(provider, config)
    _open_wire(provider, config, SystemClock())
    prices = load_prices(config.prices)
    request = CompletionRequest(operation="check", messages=())
    for model in {settings.model_for(request), *config.models.values()}:
        if not settings.needs_price or settings.is_free:
            continue
        cost = prices.require(model).worst_micro_usd(1_000, 1_000)
        if config.caps.usd is not None and cost > config.caps.usd * 1_000_000:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"the cap of {config.caps.usd} USD is too small for one call of {model}, "
                f"about {cost / 1e6:.4f} USD. Raise the cap or take a cheaper model.",
            )
    if config.caps.calls == 0 or config.caps.tokens == 0 or config.caps.wall_seconds == 0:
        raise RunError(FailureCode.INVALID_INPUT, "a cap of 0 allows no model call. Raise it or remove it.")


def choose_provider(config: LlmConfig) -> str:
    """The setting; else by the model's name and the keys that are set.

    Raises RunError(LLM_AUTH) without any of them.
    """
    if config.provider:
        if config.provider not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise RunError(
                FailureCode.INVALID_INPUT, f"POD_WORKER_LLM is {config.provider!r}. Set it to one of: {known}."
            )
        return config.provider
    has_openai = bool(config.openai_api_key or config.openai_base_url)
    has_anthropic = bool(config.anthropic_api_key or config.anthropic_base_url)
    if config.model == MODEL:
        return "scripted"
    if has_openai and not (has_anthropic and short_name(config.model or "").startswith("claude")):
        return "openai"
    if has_anthropic:
        return "anthropic"
    raise RunError(
        FailureCode.LLM_AUTH,
        "no language model is configured. Set OPENAI_API_KEY or ANTHROPIC_API_KEY, OPENAI_BASE_URL for a server "
        "of your own, or POD_WORKER_LLM=scripted for a demo.",
    )


def _open_wire(provider: str, config: LlmConfig, clock: Clock) -> WireClient:
    if provider == "scripted":
        from pod_worker.llm.scripted.client import ScriptedClient  # all its replies; others do without

        return ScriptedWire(ScriptedClient())
    if provider == "replay":
        return CassetteWire(_open_cassettes(config.cassettes))
    if provider == "openai":
        _require_key(config.openai_api_key, config.openai_base_url, "OPENAI")
        return OpenAiChat(
            config.openai_api_key, config.openai_base_url, timeout_seconds=config.timeout_seconds, clock=clock
        )
    _require_key(config.anthropic_api_key, config.anthropic_base_url, "ANTHROPIC")
    return AnthropicMessages(
        config.anthropic_api_key, config.anthropic_base_url, timeout_seconds=config.timeout_seconds, clock=clock
    )


def _require_key(key: Secret | None, base_url: str | None, prefix: str) -> None:
    """A server of one's own may need no key; the provider's does."""
    if key is None and not base_url:
        raise RunError(
            FailureCode.LLM_AUTH,
            f"{prefix}_API_KEY is not set. Set it, or {prefix}_BASE_URL for a server that needs no key.",
        )


def _open_cassettes(folder: Path | None) -> Cassettes:
    if folder is None:
        raise RunError(
            FailureCode.INVALID_INPUT, "POD_WORKER_LLM is replay. Set POD_WORKER_LLM_CASSETTES to a folder."
        )
    try:
        return Cassettes(folder)
    except CassetteError as error:
        raise RunError(FailureCode.INVALID_INPUT, str(error)) from None


def _client_settings(provider: str, config: LlmConfig) -> ClientSettings:
    is_free = provider == "scripted"
    return ClientSettings(
        models={} if is_free else config.models,
        model=MODEL if is_free else config.model,
        output=read_profile(config.output),
        needs_price=config.caps.usd is not None,
        is_free=is_free,
        retry=config.retry,
    )
