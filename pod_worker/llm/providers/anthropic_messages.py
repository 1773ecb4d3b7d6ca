"""Anthropic's messages API: https://docs.anthropic.com/en/api/messages."""

from __future__ import annotations

import base64
import json
from typing import Any

import requests

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.credentials.secret import Secret, revealed
from pod_worker.core.research.completion import ChatMessage, Image, TokenUsage
from pod_worker.core.run import Json
from pod_worker.llm.capability import OutputProfile
from pod_worker.llm.providers.http_transport import Endpoint, HttpTransport
from pod_worker.llm.server_schema import closed_schema
from pod_worker.llm.wire import TOOL_NAME, FinishReason, WireAnswer, WireRequest

DEFAULT_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
PROVIDER = "anthropic"
_EMPTY = "(empty)"  # the API rejects a message without text
_FINISH = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.REFUSAL,
    "content_filter": FinishReason.CONTENT_FILTER,  # of compatible servers
}


class _ApiKeyAuth:
    """Sets `x-api-key`; as a session's `auth` it also disables ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        BearerAuth(key, "ANTHROPIC_API_KEY")  # checks that a header can carry it
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["x-api-key"] = self._key
        return request

    def __repr__(self) -> str:
        return "_ApiKeyAuth(***)"


class AnthropicMessages:
    """Implements `wire.WireClient`."""

    provider = PROVIDER
    takes_facts = False

    def __init__(
        self,
        key: Secret | None,
        base_url: str | None = None,
        *,
        timeout_seconds: float = 600.0,
        clock: Clock | None = None,
    ) -> None:
        endpoint = Endpoint(PROVIDER, base_url or DEFAULT_URL, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
        self._http = HttpTransport(
            endpoint,
            key,
            _ApiKeyAuth(revealed(key)),
            timeout_seconds=timeout_seconds,
            clock=clock or SystemClock(),
            headers={"anthropic-version": API_VERSION},
        )

    def close(self) -> None:
        self._http.close()

    def send(self, request: WireRequest) -> WireAnswer:
        return self._http.ask(
            "/v1/messages", request, encode_request(request), decode_answer, "answered without `content`"
        )


def encode_request(request: WireRequest) -> dict[str, Json]:
    body: dict[str, Json] = {"model": request.model, "max_tokens": request.max_output_tokens}
    system = "\n\n".join(each.text for each in request.messages if each.role == "system")
    if system:
        body["system"] = system
    body["messages"] = [
        {"role": each.role, "content": _encode_content(each)} for each in request.messages if each.role != "system"
    ]
    if request.capability.takes_temperature:
        body["temperature"] = min(request.temperature, 1.0)  # the API's limit
    return body | _output_fields(request)


def _output_fields(request: WireRequest) -> dict[str, Json]:
    """The API has no JSON mode: that profile is asked for in the prompt alone."""
    schema = dict(request.schema or {})
    match request.profile:
        case OutputProfile.JSON_SCHEMA:
            return {"output_config": {"format": {"type": "json_schema", "schema": closed_schema(schema)}}}
        case OutputProfile.TOOLS:
            tool = {"name": TOOL_NAME, "description": "Give the answer.", "input_schema": schema}
            return {"tools": [tool], "tool_choice": {"type": "tool", "name": TOOL_NAME}}
        case _:
            return {}


def _encode_content(message: ChatMessage) -> Json:
    text = message.text if message.text.strip() else _EMPTY
    if not message.images:
        return text
    return [*(_encode_image(each) for each in message.images), {"type": "text", "text": text}]


def _encode_image(image: Image) -> Json:
    data = base64.b64encode(image.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": data}}


def decode_answer(body: dict[str, Any]) -> WireAnswer | None:
    """None where the answer lacks what the API promises."""
    try:
        blocks = body["content"]
        calls = [each["input"] for each in blocks if each["type"] == "tool_use"]
        text = "".join(each["text"] for each in blocks if each["type"] == "text")
        return WireAnswer(
            text=json.dumps(calls[0], ensure_ascii=False) if calls else text,
            finish=_FINISH.get(body.get("stop_reason") or "", FinishReason.STOP),
            model=str(body.get("model") or ""),
            usage=decode_usage(body.get("usage")),
            has_tool_call=bool(calls),
        )
    except (KeyError, TypeError, AttributeError):
        return None


def decode_usage(usage: Json) -> TokenUsage | None:
    """`input_tokens` of the API leaves out what was written to or read from its cache."""
    try:
        cached = int(usage.get("cache_read_input_tokens") or 0)
        written = int(usage.get("cache_creation_input_tokens") or 0)
        total = int(usage["input_tokens"]) + cached + written
        return TokenUsage(total, int(usage["output_tokens"]), cached)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
