"""What a run's client is built from: provider, keys, caps, and what is refused before the first call."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.core.credentials.secret import Secret
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, CompletionRequest
from pod_worker.llm.cassettes.cassette import Cassettes
from pod_worker.llm.factory import LlmConfig, check_config, choose_provider, open_client
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.llm.spending.limits import SpendCaps
from tests.llm.requests_and_answers import KEY, MODEL, Stop, cassette, question

OPENAI = LlmConfig(openai_api_key=Secret(KEY), model="gpt-4o-mini", caps=SpendCaps(usd=1))
BOTH = replace(OPENAI, anthropic_api_key=Secret(KEY))


@pytest.mark.parametrize(
    ("config", "provider"),
    [
        (OPENAI, "openai"),
        (LlmConfig(openai_base_url="http://127.0.0.1:1/v1"), "openai"),
        (LlmConfig(anthropic_api_key=Secret(KEY)), "anthropic"),
        (BOTH, "openai"),
        (replace(BOTH, model="claude-sonnet-4-5"), "anthropic"),
        (replace(OPENAI, model="anthropic/claude-sonnet-4-5"), "openai"),  # through OpenRouter
        (LlmConfig(model="scripted"), "scripted"),
        (replace(BOTH, provider="anthropic"), "anthropic"),
    ],
)
def test_the_provider_follows_from_what_is_set(config: LlmConfig, provider: str) -> None:
    assert choose_provider(config) == provider


@pytest.mark.parametrize(
    ("config", "code", "said"),
    [
        (LlmConfig(), FailureCode.LLM_AUTH, "OPENAI_API_KEY"),
        (LlmConfig(provider="anthropic", model=MODEL), FailureCode.LLM_AUTH, "ANTHROPIC_API_KEY"),
        (replace(OPENAI, provider="gemini"), FailureCode.INVALID_INPUT, "anthropic, scripted, replay"),
        (replace(OPENAI, model=None), FailureCode.INVALID_INPUT, "no model"),
        (replace(OPENAI, model="own-model"), FailureCode.INVALID_INPUT, "POD_WORKER_LLM_PRICES"),
        (replace(OPENAI, models={"node": "own-model"}), FailureCode.INVALID_INPUT, "own-model"),
        (replace(OPENAI, caps=SpendCaps(usd=0.0001)), FailureCode.INVALID_INPUT, "too small for one call"),
        (replace(OPENAI, caps=SpendCaps(calls=0)), FailureCode.INVALID_INPUT, "cap of 0"),
        (replace(OPENAI, output="xml"), FailureCode.INVALID_INPUT, "json_schema"),
        (replace(OPENAI, openai_base_url="localhost:8000"), FailureCode.INVALID_INPUT, "OPENAI_BASE_URL"),
        (replace(OPENAI, openai_base_url="http://u:pw12345@h/v1"), FailureCode.INVALID_INPUT, "must not hold"),
        (replace(OPENAI, prices=Path("absent.json")), FailureCode.INVALID_INPUT, "absent.json"),
        (LlmConfig(provider="replay", model=MODEL), FailureCode.INVALID_INPUT, "POD_WORKER_LLM_CASSETTES"),
        (LlmConfig(provider="replay", model=MODEL, cassettes=Path("absent")), FailureCode.INVALID_INPUT, "absent"),
    ],
)
def test_bad_configuration_is_refused_before_the_first_call(
    config: LlmConfig, code: FailureCode, said: str
) -> None:
    with pytest.raises(RunError, match=said) as caught:
        check_config(config)
    assert caught.value.code is code
    assert "pw12345" not in str(caught.value)


@pytest.mark.parametrize(
    "config", [OPENAI, replace(BOTH, model=MODEL), LlmConfig(model="scripted", caps=SpendCaps(usd=0))]
)
def test_a_good_configuration_passes(config: LlmConfig) -> None:
    check_config(config)


def test_no_key_is_shown() -> None:
    assert KEY not in repr(BOTH) + str(BOTH)


def test_scripted_answers_are_counted_cached_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedClient({"node.analyse": lambda asked: f"seed {asked.facts.get('seed')}"})
    monkeypatch.setattr("pod_worker.llm.scripted.client.ScriptedClient", lambda: scripted)
    request = CompletionRequest(
        operation="node.analyse",
        messages=(ChatMessage("user", "What did it show?"),),
        facts={"seed": 1},
    )
    config = LlmConfig(model="scripted", caps=SpendCaps(usd=0, calls=2))
    client = open_client(config, tmp_path, Stop())
    first = client.complete(request)
    again = client.complete(request)
    assert (first.is_scripted, first.is_cached, again.is_scripted, again.is_cached) == (True, False, True, True)
    assert client.total().micro_usd == 0
    assert client.operations()["node.analyse"].calls == 1
    other = replace(request, facts=request.facts | {"seed": 5})
    assert client.complete(other).text == "seed 5", (
        "the scripted model answers from facts: they are part of the key"
    )
    with pytest.raises(RunError) as caught:
        client.complete(replace(request, operation="absent.operation"))
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED
    client.close()


def test_replay_answers_without_a_server(tmp_path: Path) -> None:
    Cassettes(_folder(tmp_path / "cassettes")).add(cassette(question(1)))
    config = LlmConfig(provider="replay", model=MODEL, cassettes=tmp_path / "cassettes")
    client = open_client(config, tmp_path / "llm", Stop())
    assert client.complete(question(1)).value["plan"] == "fit a line"
    with pytest.raises(RunError, match="no cassette") as caught:
        client.complete(question(2))
    assert caught.value.code is FailureCode.INVALID_INPUT
    client.close()
    rows = [json.loads(line) for line in (tmp_path / "llm" / "ledger.ndjson").read_text().splitlines()]
    assert {row["provider"] for row in rows if row["type"] == "call"} == {"replay"}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
