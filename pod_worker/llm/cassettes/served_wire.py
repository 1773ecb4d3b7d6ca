"""The server's side of both wires: requests of clients read, answers written.

What a request asks for decides the form of its answer: the arguments of a tool call, or text.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Protocol

from pod_worker.core.research.completion import ChatMessage, Image, TokenUsage
from pod_worker.core.run import Json
from pod_worker.llm.wire import TOOL_NAME, FinishReason, WireAnswer

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServedRequest:
    model: str
    messages: tuple[ChatMessage, ...]
    tool: str | None  # the tool that must be called


class ServedRequestError(ValueError):
    """A request that the server cannot read; the message says what is missing."""


class ServedWire(Protocol):
    name: str

    def read(self, body: Body) -> ServedRequest:
        """Raises ServedRequestError."""

    def encode(self, request: ServedRequest, answer: WireAnswer) -> Body: ...

    def error(self, message: str, code: str) -> Body: ...


class ServedOpenAi:
    """Implements `ServedWire` for /v1/chat/completions."""

    name = "openai"
    _FINISH = {FinishReason.REFUSAL: "stop"}

    def read(self, body: Body) -> ServedRequest:
        _refuse_stream(body)
        tools = body.get("tools") or []
        tool = tools[0]["function"]["name"] if tools else None
        return ServedRequest(_model(body), tuple(_read_message(each) for each in body.get("messages") or []), tool)

    def encode(self, request: ServedRequest, answer: WireAnswer) -> Body:
        message: Body = {"role": "assistant", "content": answer.text}
        finish = self._FINISH.get(answer.finish, answer.finish.value)
        if answer.finish is FinishReason.REFUSAL:
            message |= {"content": None, "refusal": answer.text}
        elif answer.has_tool_call:
            function = {"name": request.tool, "arguments": answer.text}
            message |= {
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            }
            finish = "tool_calls" if answer.finish is FinishReason.STOP else finish
        body: Body = {
            "id": "chatcmpl-replay",
            "object": "chat.completion",
            "created": 0,
            "model": answer.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }
        return body if answer.usage is None else body | {"usage": self._usage(answer.usage)}

    def _usage(self, usage: TokenUsage) -> Body:
        return {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        }

    def error(self, message: str, code: str) -> Body:
        return {"error": {"message": message, "type": code, "code": code}}


class ServedAnthropic:
    """Implements `ServedWire` for /v1/messages."""

    name = "anthropic"
    _FINISH = {FinishReason.STOP: "end_turn", FinishReason.LENGTH: "max_tokens"}

    def read(self, body: Body) -> ServedRequest:
        _refuse_stream(body)
        tools = body.get("tools") or []
        tool = tools[0]["name"] if tools else None
        system = _read_message({"role": "system", "content": body.get("system") or ""})
        messages = [_read_message(each) for each in body.get("messages") or []]
        return ServedRequest(_model(body), tuple([system, *messages] if system.text else messages), tool)

    def encode(self, request: ServedRequest, answer: WireAnswer) -> Body:
        finish = self._FINISH.get(answer.finish, answer.finish.value)
        content: list[Body] = [{"type": "text", "text": answer.text}] if answer.text else []
        if answer.has_tool_call and answer.finish in self._FINISH:
            # The real API sends decoded arguments; of arguments that were cut it sends what is complete.
            content = [{"type": "tool_use", "id": "toolu_1", "name": request.tool, "input": _decoded(answer.text)}]
            finish = "tool_use" if answer.finish is FinishReason.STOP else finish
        body: Body = {
            "id": "msg_replay",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": content,
            "stop_reason": finish,
        }
        return body if answer.usage is None else body | {"usage": self._usage(answer.usage)}

    def _usage(self, usage: TokenUsage) -> Body:
        return {
            "input_tokens": usage.input_tokens - usage.cached_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
        }

    def error(self, message: str, code: str) -> Body:
        return {"type": "error", "error": {"type": code, "message": message}}


def _model(body: Body) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ServedRequestError("the request names no model")
    return model


def _refuse_stream(body: Body) -> None:
    if body.get("stream"):
        raise ServedRequestError("the replay server does not stream; send the request without `stream`")


def _read_message(message: Body) -> ChatMessage:
    """Of either wire: content is a text or a list of texts and pictures."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    text = "".join(part["text"] for part in parts if part.get("type") == "text")
    images = tuple(image for part in parts if (image := _read_image(part)))
    return ChatMessage(message["role"], text, images)


def _read_image(part: Body) -> Image | None:
    if part.get("type") == "image_url":
        head, _, data = part["image_url"]["url"].partition(";base64,")
        return Image(head.removeprefix("data:"), base64.b64decode(data))
    if part.get("type") == "image":
        return Image(part["source"]["media_type"], base64.b64decode(part["source"]["data"]))
    return None


def _decoded(text: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {TOOL_NAME: value}
