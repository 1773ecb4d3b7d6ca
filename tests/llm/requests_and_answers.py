"""Requests, their recorded answers, and the configuration of a client against the replay server."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from pod_worker.core.credentials.secret import Secret
from pod_worker.core.failure import Interruption
from pod_worker.core.research.completion import ChatMessage, CompletionRequest, TokenUsage
from pod_worker.llm.cassettes.canonical import canonical_messages
from pod_worker.llm.cassettes.cassette import Cassette
from pod_worker.llm.cassettes.replay_server import ReplayServer
from pod_worker.llm.client import RetryPolicy
from pod_worker.llm.factory import LlmConfig
from pod_worker.llm.spending.limits import SpendCaps

KEY = "sk-secret-0123456789abcdef"
WIRES = ("openai", "anthropic")
MODEL = "claude-sonnet-4-5"  # takes tools, images and a temperature; has a price: 3 and 15 USD
SCHEMA = {
    "type": "object",
    "properties": {"plan": {"type": "string"}, "code": {"type": "string", "minLength": 1}},
    "required": ["plan", "code"],
    "additionalProperties": False,
}
ANSWER = '{"plan": "fit a line", "code": "print(1)\\n"}'
USAGE = TokenUsage(1_000, 200, 100)
QUICK = RetryPolicy(attempts=3, first_seconds=0.001, cap_seconds=0.5)


class Stop:
    """A stop signal that a test sets."""

    def __init__(self) -> None:
        self.reason: type[Interruption] | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise self.reason()

    def is_set(self) -> bool:
        return self.reason is not None


def question(number: int = 0, **changes: object) -> CompletionRequest:
    request = CompletionRequest(
        operation="node.draft",
        messages=(ChatMessage("system", "You write code."), ChatMessage("user", f"Task number {number}.")),
        schema=SCHEMA,
        max_output_tokens=400,
        stage="Stage_1",
    )
    return replace(request, **changes)


def cassette(request: CompletionRequest, text: str = ANSWER, model: str = MODEL, **changes: object) -> Cassette:
    made = Cassette(
        operation=request.operation,
        model=model,
        sample=request.sample,
        messages=canonical_messages(request.messages),
        text=text,
        usage=USAGE,
    )
    return msgspec.structs.replace(made, **changes)


def config_for(wire: str, server: ReplayServer) -> LlmConfig:
    return LlmConfig(
        provider=wire,
        openai_api_key=Secret(KEY),
        openai_base_url=server.openai_url,
        anthropic_api_key=Secret(KEY),
        anthropic_base_url=server.url,
        model=MODEL,
        caps=SpendCaps(usd=1.0),
        retry=QUICK,
        timeout_seconds=20.0,
    )
