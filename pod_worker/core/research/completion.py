"""A call of a language model: request, answer, and the port between them.

`llm/` has the adapters. `search/`, `paper/` and the stages only know this port.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from pod_worker.core.run import Json


@dataclass(frozen=True, slots=True)
class Image:
    """A picture for a model that reads pictures."""

    media_type: str  # image/png, image/jpeg
    data: bytes


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """One question to a model.

    `facts` are what the messages say, as data: the scripted model answers from them, a real one never sees them.
    """

    operation: str  # what the answer is for, e.g. node.draft; the ledger sums by it
    messages: tuple[ChatMessage, ...]
    model: str | None = None  # None: the client's model for this operation
    schema: dict[str, Json] | None = None  # JSON Schema of the answer; None: free text
    facts: dict[str, Json] = field(default_factory=dict)
    temperature: float = 0.7
    max_output_tokens: int = 8_192
    stage: str | None = None  # who pays, for the ledger
    node_id: str | None = None
    sample: int = 0  # distinguishes requests that are equal on purpose, such as independent reviews


@dataclass(frozen=True, slots=True)
class TokenUsage:
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # part of the input tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletion:
    text: str
    value: Json = None  # decoded and valid, where the request has a schema
    model: str
    usage: TokenUsage = TokenUsage()
    micro_usd: int = 0
    is_cached: bool = False  # answered from the cache of this run: nothing was paid
    is_scripted: bool = False  # written by the scripted model, not by a language model


class CompletionClient(Protocol):
    """Answers requests; safe for several threads."""

    def complete(self, request: CompletionRequest) -> ChatCompletion:
        """Raises RunError.

        LLM_AUTH, LLM_RATE_LIMIT, LLM_ERROR, NETWORK, INVALID_INPUT (unknown model or price), BUDGET_EXCEEDED (a
        cap would be passed; nothing was sent). CancelRequested and DrainRequested end a wait.
        """
