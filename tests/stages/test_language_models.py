"""Which provider and which model a run's parameters and the worker's keys lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.llm.capability import OutputProfile
from pod_worker.llm.factory import choose_provider
from pod_worker.llm.spending.limits import SpendCaps
from pod_worker.stages.language_models import DEFAULT_MODELS, model_config, open_models
from tests.training.context import FolderContext

KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("access", "model", "provider", "named"),
    [
        (ModelAccess(openai_api_key=KEY), "default", "openai", DEFAULT_MODELS["openai"]),
        (ModelAccess(anthropic_api_key=KEY), "default", "anthropic", DEFAULT_MODELS["anthropic"]),
        (
            ModelAccess(openai_api_key=KEY, anthropic_api_key=KEY),
            "claude-sonnet-5",
            "anthropic",
            "claude-sonnet-5",
        ),
        (ModelAccess(openai_api_key=KEY, anthropic_api_key=KEY), "gpt-5", "openai", "gpt-5"),
        (
            ModelAccess(provider="anthropic", anthropic_api_key=KEY),
            "default",
            "anthropic",
            DEFAULT_MODELS["anthropic"],
        ),
        (ModelAccess(openai_api_key=KEY), "scripted", "scripted", "scripted"),
        (ModelAccess(provider="scripted"), "default", "scripted", "scripted"),
    ],
)
def test_the_keys_decide_whose_default_model_it_is(
    access: ModelAccess, model: str, provider: str, named: str
) -> None:
    config = model_config(access, model, SpendCaps())
    assert (choose_provider(config), config.model) == (provider, named)


def test_without_any_key_the_default_is_refused() -> None:
    with pytest.raises(RunError) as caught:
        model_config(ModelAccess(), "default", SpendCaps())
    assert caught.value.code is FailureCode.LLM_AUTH


def test_the_output_profile_is_handed_on() -> None:
    access = ModelAccess(openai_api_key=KEY, output="text")
    assert model_config(access, "gpt-5", SpendCaps()).output == OutputProfile.TEXT


@pytest.mark.parametrize("model", ["default", "gpt-5-mini", "scripted"])
def test_a_scripted_provider_is_named_scripted_whatever_model_was_asked_for(tmp_path: Path, model: str) -> None:
    context = FolderContext(tmp_path, {})
    context.model_access = ModelAccess(provider="scripted")
    _client, named = open_models(context, model, SpendCaps(), tmp_path / "llm")
    assert named == "scripted"
