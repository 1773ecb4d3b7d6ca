"""The scripted model below the metered client.

Its calls are counted and cached like paid ones.
"""

from __future__ import annotations

import json

from pod_worker.core.failure import RunError
from pod_worker.core.research.completion import CompletionClient, CompletionRequest
from pod_worker.llm.wire import WireAnswer, WireError, WireRequest

MODEL = "scripted"


class ScriptedWire:
    """Implements `wire.WireClient` with a client that answers from facts."""

    provider = "scripted"
    takes_facts = True

    def __init__(self, client: CompletionClient) -> None:
        self._client = client

    def close(self) -> None:
        """It holds nothing open."""

    def send(self, request: WireRequest) -> WireAnswer:
        try:
            completion = self._client.complete(_completion_request(request))
        except RunError as error:
            raise WireError(error.code, error.message) from error
        text = completion.text
        if request.schema is not None and completion.value is not None:
            text = json.dumps(completion.value, ensure_ascii=False)
        return WireAnswer(
            text=text, model=completion.model, usage=completion.usage, has_tool_call=True, is_scripted=True
        )


def _completion_request(request: WireRequest) -> CompletionRequest:
    return CompletionRequest(
        operation=request.operation,
        messages=request.messages,
        model=request.model,
        schema=None if request.schema is None else dict(request.schema),
        facts=dict(request.facts),
        temperature=request.temperature,
        max_output_tokens=request.max_output_tokens,
        sample=request.sample,
    )
