"""The real provider behind `pod-worker llm replay DIR --record URL`.

It is asked what has no cassette.

The key comes from the settings or from the client's request. Neither reaches a cassette or a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.credentials.secret import Redactor, Secret, revealed
from pod_worker.llm.cassettes.replay import Reply
from pod_worker.llm.cassettes.served_wire import ServedWire
from pod_worker.llm.providers import anthropic_messages, openai_chat
from pod_worker.llm.wire import OPERATION_HEADER, SAMPLE_HEADER, WireAnswer

_TIMEOUT_SECONDS = (10.0, 600.0)
# The last two as our own clients send them, so that a replay server can stand behind this one.
_FORWARDED = (
    "authorization", "x-api-key", "anthropic-version", "anthropic-beta",
    OPERATION_HEADER.lower(), SAMPLE_HEADER.lower(),
)  # fmt: skip
_SECRETS = frozenset({"authorization", "x-api-key"})


class RecordingUpstream:
    """Implements `replay.Upstream`."""

    def __init__(self, base_url: str, key: Secret | None = None) -> None:
        self._base = base_url.rstrip("/")
        self._key = key
        self._session = requests.Session()
        self._session.auth = BearerAuth(None)  # no login from ~/.netrc

    def ask(self, wire: ServedWire, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply | WireAnswer:
        sent = {name: headers[name] for name in _FORWARDED if name in headers} | self._key_header(wire)
        redact = Redactor([value.removeprefix("Bearer ") for name, value in sent.items() if name in _SECRETS])
        try:
            response = self._session.post(
                self._url(wire), json=dict(body), headers=sent, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            return Reply.of_json(
                502, wire.error(f"the provider did not answer: {type(error).__name__}", "upstream")
            )
        answer = _decode(wire, response) if response.status_code == 200 else None
        if answer is None:
            clean = redact.redact_bytes(response.content)
            return Reply(response.status_code if response.status_code >= 400 else 502, clean)
        return WireAnswer(
            text=redact(answer.text),
            finish=answer.finish,
            model=answer.model,
            usage=answer.usage,
            has_tool_call=answer.has_tool_call,
        )

    def _url(self, wire: ServedWire) -> str:
        if wire.name == anthropic_messages.PROVIDER:
            return f"{self._base.removesuffix('/v1')}/v1/messages"
        return f"{self._base}/chat/completions"

    def _key_header(self, wire: ServedWire) -> dict[str, str]:
        if self._key is None:
            return {}
        if wire.name == anthropic_messages.PROVIDER:
            version = {"anthropic-version": anthropic_messages.API_VERSION}
            return {"x-api-key": revealed(self._key) or ""} | version
        return {"authorization": f"Bearer {revealed(self._key)}"}


def _decode(wire: ServedWire, response: requests.Response) -> WireAnswer | None:
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    if wire.name == anthropic_messages.PROVIDER:
        return anthropic_messages.decode_answer(body)
    return openai_chat.decode_answer(body)
