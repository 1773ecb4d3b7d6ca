"""The language models of a run: provider, model, caps, and what they cost so far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pod_worker.core.credentials.secret import Secret
from pod_worker.core.model_access import ANTHROPIC, OPENAI, REPLAY, SCRIPTED, ModelAccess
from pod_worker.core.run import Json
from pod_worker.core.stage import Context
from pod_worker.llm import factory
from pod_worker.llm.client import MeteredClient
from pod_worker.llm.factory import LlmConfig, check_config, open_client
from pod_worker.llm.spending.limits import SpendCaps

DEFAULT = "default"
# Of a run that names none.
DEFAULT_MODELS = {OPENAI: "gpt-5-mini", ANTHROPIC: "claude-sonnet-5", SCRIPTED: SCRIPTED, REPLAY: "gpt-5-mini"}


def model_config(access: ModelAccess, model: str, caps: SpendCaps) -> LlmConfig:
    config = LlmConfig(
        provider=choose_provider(access, model),
        openai_api_key=_secret(access.openai_api_key),
        openai_base_url=access.openai_base_url,
        anthropic_api_key=_secret(access.anthropic_api_key),
        anthropic_base_url=access.anthropic_base_url,
        model=None if model == DEFAULT else model,
        output=access.output,
        prices=Path(access.prices_file) if access.prices_file else None,
        cassettes=Path(access.cassettes) if access.cassettes else None,
        caps=caps,
    )
    # Without a setting, the keys decide which provider's default it is.
    return replace(config, model=DEFAULT_MODELS[factory.choose_provider(config)]) if model == DEFAULT else config


def choose_provider(access: ModelAccess, model: str) -> str | None:
    """The provider for a model's name; None: the keys decide.

    The scripted model needs no key. A name of Anthropic's goes to Anthropic where there is a key for it.
    """
    if model == SCRIPTED:
        return SCRIPTED
    if access.provider or not model.startswith("claude"):
        return access.provider
    return ANTHROPIC if access.anthropic_api_key or access.anthropic_base_url else None


def open_models(context: Context, model: str, caps: SpendCaps, folder: Path) -> tuple[MeteredClient, str]:
    """The client of a run and the name of its model. Nothing is paid here.

    Raises RunError: no key, no price under a cap, a cap below one call.
    """
    config = model_config(context.model_access or ModelAccess(), model, caps)
    check_config(config)
    is_scripted = factory.choose_provider(config) == SCRIPTED
    return open_client(config, folder, context.stop), SCRIPTED if is_scripted else config.model or model


def cost_of(client: MeteredClient) -> dict[str, Json]:
    """Calls, tokens and dollars by operation, for `runs cost` and the report."""
    total = client.total()
    return {
        "calls": total.calls,
        "tokens": total.tokens,
        "usd": total.micro_usd / 1e6,
        "unpriced_calls": total.unpriced_calls,
        "prices_sha256": client.prices_sha256,
        "operations": {
            name: {
                "calls": each.calls,
                "from_cache": each.from_cache,
                "input_tokens": each.input_tokens,
                "output_tokens": each.output_tokens,
                "cached_tokens": each.cached_tokens,
                "seconds": round(each.seconds, 3),
                "usd": each.micro_usd / 1e6,
            }
            for name, each in sorted(client.operations().items())
        },
    }


def _secret(value: str | None) -> Secret | None:
    return Secret(value) if value else None
