"""The client of the scripted model: one reply function for each operation.

A reply is computed from the request's facts alone, so equal requests get equal answers. Nothing is paid.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import ChatCompletion, CompletionRequest, TokenUsage
from pod_worker.core.run import Json
from pod_worker.llm.scripted import agent, ideation, node, paper
from pod_worker.llm.structured_output import schema_problems

MODEL = "scripted"
CHARACTERS_PER_TOKEN = 4

Reply = Callable[[CompletionRequest], Json]


def merge_replies(*families: Mapping[str, Reply]) -> dict[str, Reply]:
    """One table. Raises ValueError where two families answer one operation."""
    merged: dict[str, Reply] = {}
    for family in families:
        if twice := merged.keys() & family.keys():
            raise ValueError(f"two scripted replies for {', '.join(sorted(twice))}")
        merged |= family
    return merged


REPLIES = merge_replies(node.REPLIES, agent.REPLIES, paper.REPLIES, ideation.REPLIES)


class ScriptedClient:
    """Implements `core.research.completion.CompletionClient` without a language model."""

    def __init__(self, replies: Mapping[str, Reply] = REPLIES) -> None:
        self._replies = replies

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        """Raises RunError(INVALID_INPUT) for an operation without a scripted reply."""
        reply = self._replies.get(request.operation)
        if reply is None:
            known = ", ".join(sorted(self._replies)) or "none"
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"the scripted model has no reply for {request.operation!r} (it answers: {known}). "
                "Use a language model, or add a reply to pod_worker/llm/scripted/.",
            )
        value = reply(request)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if request.schema is not None:
            _check_schema(request.operation, value, request.schema)
        return ChatCompletion(
            text=text,
            value=value if request.schema is not None else None,
            model=MODEL,
            usage=TokenUsage(_tokens(sum(len(each.text) for each in request.messages)), _tokens(len(text))),
            is_scripted=True,
        )


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _check_schema(operation: str, value: Json, schema: dict[str, Json]) -> None:
    if importlib.util.find_spec("jsonschema") is None:
        return  # an optional package; the tests have it
    if problems := schema_problems(value, schema):
        raise RunError(
            FailureCode.INTERNAL,
            f"the scripted reply to {operation} does not fit the request's schema: {'; '.join(problems)}",
        )
