"""Prices: names of models, costs, the user's file, and the refusal of what is not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import TokenUsage
from pod_worker.llm.spending.prices import ModelPrice, PriceTier, load_prices


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("gpt-4o", 2.5),
        ("gpt-4o-2024-08-06", 2.5),
        ("gpt-4o-2024-05-13", 5.0),
        ("openai/gpt-4o-mini", 0.15),
        ("claude-sonnet-4-5", 3.0),
        ("claude-sonnet-4-5-20250929", 3.0),
        ("anthropic/claude-sonnet-4.5", 3.0),
        ("claude-3-5-haiku-latest", 0.8),
        ("Claude-Opus-4-1", 15.0),
    ],
)
def test_a_model_is_found_under_its_names(model: str, usd: float) -> None:
    assert load_prices().require(model).input == usd


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini-tts", "own-model", "", "gpt", "claude-sonnet-4-5-turbo", "gpt-oss-20b"]
)
def test_an_unknown_model_has_no_price_and_never_zero(model: str) -> None:
    prices = load_prices()
    assert prices.find(model) is None
    with pytest.raises(RunError) as caught:
        prices.require(model)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert "POD_WORKER_LLM_PRICES" in str(caught.value)


def test_the_snapshot_is_dated_and_has_no_free_model() -> None:
    prices = load_prices()
    assert prices.snapshot == "2026-11-29"
    assert len(prices.models) > 50
    assert not [name for name, each in prices.models.items() if each.input <= 0 or each.output < each.input]


def test_cost_is_rounded_up_and_cached_input_has_its_own_price() -> None:
    price = ModelPrice(3.0, 15.0, 0.3)
    assert price.micro_usd(TokenUsage(1_000, 200, 100)) == 900 * 3 + 30 + 3_000
    assert price.micro_usd(TokenUsage(1, 0, 1)) == 1
    assert ModelPrice(3.0, 15.0).micro_usd(TokenUsage(10, 0, 10)) == 30
    assert price.micro_usd(TokenUsage(10, 0, 1_000)) == 3, "a server that reports more cached than input tokens"


def test_a_long_prompt_has_the_price_of_its_tier() -> None:
    price = ModelPrice(1.0, 2.0, None, (PriceTier(200, 3.0, 4.0), PriceTier(100, 2.0, 3.0)))
    assert [price.micro_usd(TokenUsage(tokens, 10)) for tokens in (100, 101, 201)] == [120, 232, 643]


def test_a_users_file_overrides_and_adds(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(
        json.dumps({"models": {"own-model": {"input": 0, "output": 0}, "GPT-4o": {"input": 1, "output": 2}}})
    )
    prices = load_prices(file)
    assert prices.require("own-model").micro_usd(TokenUsage(1_000, 1_000)) == 0
    assert prices.require("gpt-4o").output == 2
    assert prices.require("gpt-4o-mini").output == 0.6
    assert prices.sha256 != load_prices().sha256 == load_prices().sha256


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"models": {"m": {"input": 1}}}', '{"models": {"m": {"input": -1, "output": 1}}}',
     '{"models": {"m": {"inputs": 1, "output": 1, "input": 1}}}', '{"models": {"m": {"input": "1", "output": 1}}}'],
)  # fmt: skip
def test_an_unusable_file_is_refused_with_its_fault(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prices.json"
    file.write_text(content)
    with pytest.raises(RunError, match="is no price list") as caught:
        load_prices(file)
    assert caught.value.code is FailureCode.INVALID_INPUT
    with pytest.raises(RunError, match="cannot be read"):
        load_prices(tmp_path / "absent.json")
