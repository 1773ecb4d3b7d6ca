"""JSON found in what models write, and what is said about what cannot be used."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.research.completion import ChatMessage
from pod_worker.llm.capability import OutputProfile, capability_of, read_profile
from pod_worker.llm.server_schema import closed_schema, is_open, is_strict
from pod_worker.llm.structured_output import AnswerProblem, find_object, instructed, schema_problems
from tests.llm.requests_and_answers import ANSWER, SCHEMA

VALUE = json.loads(ANSWER)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"  {ANSWER}\n",
        f"```json\n{ANSWER}\n```",
        f"```\n{ANSWER}\n```",
        f"Sure! Use {{}} like this:\n{ANSWER}\nDone {{really}}.",
        f"{{not json}} {ANSWER}",
        f'{{"plan": "only a plan"}} and then {ANSWER}',
        f"```python\nx = {{1: 2}}\n```\n{ANSWER}",
        '{"plan": "fit a line", "code": "print(1)\n"}',  # a raw newline inside a text
    ],
)
def test_the_object_is_found(text: str) -> None:
    assert find_object(text, SCHEMA) == VALUE


@given(before=st.text(max_size=80), after=st.text(max_size=80), plan=st.text(), code=st.text(min_size=1))
def test_an_object_is_found_in_any_prose(before: str, after: str, plan: str, code: str) -> None:
    value = {"plan": plan, "code": code}
    found = find_object(f"{before.replace('{', '(')}\n{json.dumps(value)}\n{after}", SCHEMA)
    assert found == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON object"),
        ("I cannot.", "no JSON object"),
        (ANSWER[:20], "no JSON object"),
        ("[1, 2]", "is not of type 'object'"),
        ('{"plan": "x"}', "'code' is a required property"),
        ('{"plan": "x", "code": ""}', "code: "),
        ('{"plan": "x", "code": NaN}', "no JSON object"),
        ('{"plan": 1e999, "code": "x"}', "no JSON object"),
        ('{"plan": 1, "code": "x"}', "plan: 1 is not of type 'string'"),
        ("{" * 5_000, "no JSON object"),
        ("[" * 200_000, "no JSON object"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    problem = find_object(text, SCHEMA)
    assert isinstance(problem, AnswerProblem)
    assert said in problem.text


def test_problems_are_few_and_short() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    problems = schema_problems([{"x": "y" * 10_000}] * 50, schema)
    assert len(problems) == 5
    assert max(map(len, problems)) < 300


@pytest.mark.parametrize(
    ("model", "output", "temperature", "images"),
    [
        ("gpt-4o-mini", "json_schema", True, True),
        ("gpt-5.4-mini", "json_schema", False, True),
        ("o3", "json_schema", False, True),
        ("openrouter/anthropic/claude-3.5-sonnet", "tools", True, True),
        ("claude-sonnet-4-5-20250929", "tools", True, True),
        ("claude-opus-4-7", "tools", False, True),
        ("claude-sonnet-5", "tools", False, True),
        ("claude-sonnet-5-5", "json_schema", False, True),
        ("claude-fable-5-1", "json_schema", False, True),
        ("deepseek-chat", "json_object", True, False),
        ("Qwen/Qwen3-8B", "text", True, False),
    ],
)
def test_the_table_of_models(model: str, output: str, temperature: bool, images: bool) -> None:
    found = capability_of(model)
    assert (found.output, found.takes_temperature, found.takes_images) == (output, temperature, images)
    assert capability_of(model, read_profile("text")).output is OutputProfile.TEXT


def test_the_schema_is_in_the_prompt_where_the_server_does_not_enforce_it() -> None:
    messages = (ChatMessage("user", "Go."),)
    for output in OutputProfile:
        text = instructed(messages, SCHEMA, capability_of("m", output))[-1].text
        assert ("minLength" in text) == (output in ("text", "json_object"))


def test_schemas_for_servers() -> None:
    for closed in (None, SCHEMA, {"type": "array", "items": SCHEMA}):
        assert not is_open(closed)
    for anything in ({"type": "object"}, {**SCHEMA, "additionalProperties": True}):
        assert is_open({**SCHEMA, "properties": {"plan": anything}})
    assert is_strict(SCHEMA)
    assert not is_strict({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    assert not is_strict({**SCHEMA, "required": ["plan"]})
    nested = {
        "type": "array",
        "minItems": 3,
        "items": {"type": "object", "properties": {"title": {"type": "string"}}},
    }
    assert closed_schema(nested) == {
        "type": "array",
        "items": {"type": "object", "properties": {"title": {"type": "string"}}, "additionalProperties": False},
    }
