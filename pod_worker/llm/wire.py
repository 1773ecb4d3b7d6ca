"""The port below the metered client: one request to a model, one answer.

Adapters: `openai_chat`, `anthropic_messages`, `cassette_wire` and `scripted_wire`. They neither retry nor count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, TokenUsage
from pod_worker.core.run import Json
from pod_worker.llm.capability import ModelCapability, OutputProfile

TOOL_NAME = "answer"
OPERATION_HEADER = "X-Operation"  # what a request is for; the replay server finds its cassette by it
SAMPLE_HEADER = "X-Sample"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"  # cut at max_output_tokens
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"


class Billing(StrEnum):
    """What is known about the cost of a request that got no usable answer."""

    NOTHING = "nothing"  # refused before the model ran
    UNKNOWN = "unknown"  # sent, and the answer did not arrive: counted at its reserved price


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRequest:
    operation: str
    model: str
    messages: tuple[ChatMessage, ...]
    capability: ModelCapability
    schema: Mapping[str, Json] | None = None
    temperature: float = 0.7
    max_output_tokens: int = 8_192
    sample: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)  # only the scripted model reads them

    @property
    def profile(self) -> OutputProfile | None:
        """How the schema is asked for; None: free text."""
        return None if self.schema is None else self.capability.output


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAnswer:
    """`text` is the model's text, or the arguments of its tool call as JSON."""

    text: str
    finish: FinishReason = FinishReason.STOP
    model: str = ""
    usage: TokenUsage | None = None  # None: the server does not report it
    has_tool_call: bool = False
    is_scripted: bool = False


class WireError(RunError):
    """A request without a usable answer.

    It says what that means for a retry and for the money.
    """

    def __init__(
        self,
        code: FailureCode,
        message: str,
        *,
        is_transient: bool = False,
        billing: Billing = Billing.NOTHING,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.is_transient = is_transient
        self.billing = billing
        self.retry_after_seconds = retry_after_seconds


class WireClient(Protocol):
    """Safe for several threads."""

    @property
    def provider(self) -> str:
        """For the ledger: openai, anthropic, replay or scripted."""

    @property
    def takes_facts(self) -> bool:
        """Whether answers depend on `facts`, which then belong to the cache key."""

    def send(self, request: WireRequest) -> WireAnswer:
        """Raises WireError."""

    def close(self) -> None: ...
