"""The scripted model's client: labelled answers, the schema, token counts, and operations that it does not know."""

from __future__ import annotations

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, CompletionRequest
from pod_worker.llm.scripted.client import ScriptedClient, merge_replies

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def request(schema=SCHEMA, operation="count") -> CompletionRequest:
    return CompletionRequest(operation=operation, messages=(ChatMessage("user", "12345678"),), schema=schema)


def test_an_answer_is_labelled_and_costs_nothing() -> None:
    answer = ScriptedClient({"count": lambda _: {"n": 3}}).complete(request())
    assert answer.is_scripted
    assert answer.value == {"n": 3}
    assert answer.text == '{"n": 3}'
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.micro_usd) == (2, 2, 0)


def test_without_a_schema_the_answer_is_text() -> None:
    answer = ScriptedClient({"count": lambda _: "three"}).complete(request(schema=None))
    assert (answer.text, answer.value) == ("three", None)


def test_a_reply_outside_its_schema_is_a_defect() -> None:
    with pytest.raises(RunError, match=r"count does not fit.*'three' is not of type 'integer'") as caught:
        ScriptedClient({"count": lambda _: {"n": "three"}}).complete(request())
    assert caught.value.code is FailureCode.INTERNAL


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(RunError, match=r"no reply for 'sing' \(it answers: count\)"):
        ScriptedClient({"count": lambda _: {"n": 3}}).complete(request(operation="sing"))


def test_two_families_never_answer_one_operation() -> None:
    with pytest.raises(ValueError, match="two scripted replies for a"):
        merge_replies({"a": lambda _: 1}, {"a": lambda _: 2})
