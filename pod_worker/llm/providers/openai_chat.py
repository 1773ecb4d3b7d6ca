"""Chat completions in OpenAI's form.

Also vLLM, llama.cpp, OpenRouter and others. API: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import base64
from typing import Any

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.credentials.secret import Secret, revealed
from pod_worker.core.research.completion import ChatMessage, Image, TokenUsage
from pod_worker.core.run import Json
from pod_worker.llm.capability import OutputProfile
from pod_worker.llm.providers.http_transport import Endpoint, HttpTransport
from pod_worker.llm.server_schema import closed_schema, is_strict
from pod_worker.llm.wire import TOOL_NAME, FinishReason, WireAnswer, WireRequest

DEFAULT_URL = "https://api.openai.com/v1"
PROVIDER = "openai"
_FINISH = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class OpenAiChat:
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
        endpoint = Endpoint(PROVIDER, base_url or DEFAULT_URL, "OPENAI_API_KEY", "OPENAI_BASE_URL")
        auth = BearerAuth(revealed(key), "OPENAI_API_KEY")
        self._http = HttpTransport(
            endpoint, key, auth, timeout_seconds=timeout_seconds, clock=clock or SystemClock()
        )

    def close(self) -> None:
        self._http.close()

    def send(self, request: WireRequest) -> WireAnswer:
        return self._http.ask(
            "/chat/completions",
            request,
            encode_request(request),
            decode_answer,
            "answered without `choices[0].message`",
        )


def encode_request(request: WireRequest) -> dict[str, Json]:
    body: dict[str, Json] = {
        "model": request.model,
        "messages": [_encode_message(each) for each in request.messages],
    }
    limit = "max_completion_tokens" if request.capability.counts_reasoning else "max_tokens"
    body[limit] = request.max_output_tokens
    if request.capability.takes_temperature:
        body["temperature"] = request.temperature
    return body | _output_fields(request)


def _output_fields(request: WireRequest) -> dict[str, Json]:
    schema = dict(request.schema or {})
    match request.profile:
        case OutputProfile.JSON_SCHEMA:
            closed = closed_schema(schema)
            named = {"name": TOOL_NAME, "schema": closed, "strict": is_strict(closed)}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case OutputProfile.TOOLS:
            function = {"name": TOOL_NAME, "description": "Give the answer.", "parameters": schema}
            choice = {"type": "function", "function": {"name": TOOL_NAME}}
            return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}
        case OutputProfile.JSON_OBJECT:
            return {"response_format": {"type": "json_object"}}
        case _:
            return {}


def _encode_message(message: ChatMessage) -> dict[str, Json]:
    if not message.images:
        return {"role": message.role, "content": message.text}
    parts: list[Json] = [{"type": "text", "text": message.text}]
    parts += [{"type": "image_url", "image_url": {"url": _data_url(each)}} for each in message.images]
    return {"role": message.role, "content": parts}


def _data_url(image: Image) -> str:
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def decode_answer(body: dict[str, Any]) -> WireAnswer | None:
    """None where the answer lacks what the API promises."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        arguments = calls[0]["function"]["arguments"] if calls else None
        refusal = message.get("refusal")
        finish = _FINISH.get(choice.get("finish_reason") or "stop", FinishReason.STOP)
        return WireAnswer(
            text=_text(arguments if calls else refusal or message.get("content")),
            finish=FinishReason.REFUSAL if refusal and not calls else finish,
            model=str(body.get("model") or ""),
            usage=decode_usage(body.get("usage")),
            has_tool_call=bool(calls),
        )
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _text(content: Json) -> str:
    """Content is a text or, from some servers, a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def decode_usage(usage: Json) -> TokenUsage | None:
    try:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return TokenUsage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]), int(cached))
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
