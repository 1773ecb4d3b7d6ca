"""What the replay server answers: recorded answers, faults by schedule, counts.

Where a request has no cassette the answer is 404 with the key and the nearest one or, while recording, the real
provider's answer, which becomes a cassette.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pod_worker.llm.cassettes.cassette import Cassette, CassetteError, Cassettes, Question, question_of
from pod_worker.llm.cassettes.faults import ModelFault, ModelFaultKind, ModelFaultPlan
from pod_worker.llm.cassettes.served_wire import ServedRequest, ServedWire
from pod_worker.llm.wire import OPERATION_HEADER, SAMPLE_HEADER, FinishReason, WireAnswer

UNKNOWN_OPERATION = "chat"  # of clients that do not send the header
_HANG_SECONDS = 3_600.0
_HTTP_FAULTS = {
    ModelFaultKind.RATE_LIMIT: (429, "rate_limit_error"),
    ModelFaultKind.SERVER_ERROR: (500, "server_error"),
    ModelFaultKind.AUTH: (401, "authentication_error"),
}


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, status: int, body: Mapping[str, Any], **headers: str) -> Reply:
        return cls(status, json.dumps(body).encode(), headers=headers)


class ResetConnectionError(Exception):
    """The connection must be reset instead of an answer."""


class Upstream(Protocol):
    """The real provider, while recording."""

    def ask(self, wire: ServedWire, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply | WireAnswer:
        """A usable answer, or the provider's reply without one."""


class RequestCounts:
    """What was asked and answered. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._asked: Counter[str] = Counter()
            self._faults: Counter[str] = Counter()
            self._answered: Counter[str] = Counter()
            self._unknown = 0

    def ask(self, operation: str) -> None:
        with self._lock:
            self._asked[operation] += 1

    def fault(self, kind: ModelFaultKind) -> None:
        with self._lock:
            self._faults[kind.value] += 1

    def miss(self) -> None:
        with self._lock:
            self._unknown += 1

    def answer(self, fingerprint: str) -> None:
        with self._lock:
            self._answered[fingerprint] += 1

    def to_json(self) -> dict[str, Any]:
        """`duplicates`: answers to a request that had been answered before."""
        with self._lock:
            return {
                "requests": self._asked.total(),
                "answered": self._answered.total(),
                "duplicates": self._answered.total() - len(self._answered),
                "unknown": self._unknown,
                "by_operation": dict(sorted(self._asked.items())),
                "faults": dict(sorted(self._faults.items())),
            }


class Replay:
    """Answers requests of both wires. Safe for several threads."""

    def __init__(
        self,
        cassettes: Cassettes,
        *,
        latency_seconds: float = 0.0,
        faults: Iterable[ModelFault] = (),
        upstream: Upstream | None = None,
    ) -> None:
        self.cassettes = cassettes
        self.latency_seconds = latency_seconds
        self.faults = ModelFaultPlan(faults)
        self.counts = RequestCounts()
        self._upstream = upstream
        self._closing = threading.Event()

    def close(self) -> None:
        """End requests that hang."""
        self._closing.set()

    def answer(self, wire: ServedWire, body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        """The reply to one request; `headers` have lower-case names.

        Raises ServedRequestError and ResetConnectionError.
        """
        request = wire.read(body)
        operation = headers.get(OPERATION_HEADER.lower()) or UNKNOWN_OPERATION
        sample = int(headers.get(SAMPLE_HEADER.lower()) or 0)
        self.counts.ask(operation)
        self._wait(self.latency_seconds)
        fault = self.faults.choose(operation)
        if fault is not None:
            self.counts.fault(fault.kind)
            if (reply := self._transport_fault(wire, fault)) is not None:
                return reply
        question = question_of(operation, request.model, sample, request.messages)
        try:
            found = self._find(wire, question, body, headers)
        except CassetteError as error:
            self.counts.miss()
            return Reply.of_json(404, wire.error(str(error), "unknown_cassette"))
        if isinstance(found, Reply):
            return found
        answer = replace(_answer_of(found), has_tool_call=request.tool is not None)
        self.counts.answer(_fingerprint(operation, sample, request))
        return Reply.of_json(200, wire.encode(request, answer if fault is None else spoil(answer, fault.kind)))

    def _find(
        self, wire: ServedWire, question: Question, body: dict[str, Any], headers: Mapping[str, str]
    ) -> Cassette | Reply:
        if self._upstream is None or self.cassettes.find(question) is not None:
            return self.cassettes.require(question)
        answer = self._upstream.ask(wire, body, headers)
        if isinstance(answer, Reply):
            return answer
        return self.cassettes.add(_cassette_of(question, answer))

    def _transport_fault(self, wire: ServedWire, fault: ModelFault) -> Reply | None:
        """The reply of a fault that needs no recorded answer."""
        if fault.kind in _HTTP_FAULTS:
            status, code = _HTTP_FAULTS[fault.kind]
            error = wire.error(f"fault {fault.kind} of the replay server", code)
            headers = {"Retry-After": f"{fault.value or 0:g}"} if fault.kind is ModelFaultKind.RATE_LIMIT else {}
            return Reply.of_json(status, error, **headers)
        if fault.kind is ModelFaultKind.NOT_JSON:
            return Reply(200, b"<html>A page of a proxy</html>", "text/html")
        if fault.kind is ModelFaultKind.HANG:
            self._wait(fault.value or _HANG_SECONDS)
            raise ResetConnectionError
        if fault.kind is ModelFaultKind.RESET:
            raise ResetConnectionError
        return None

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._closing.wait(seconds):
            raise ResetConnectionError


def spoil(answer: WireAnswer, kind: ModelFaultKind) -> WireAnswer:
    """The answer with a fault of its content."""
    cut = answer.text[: len(answer.text) * 2 // 3]
    match kind:
        case ModelFaultKind.TRUNCATED_JSON:
            return replace(answer, text=cut)
        case ModelFaultKind.LENGTH:
            return replace(answer, text=cut, finish=FinishReason.LENGTH)
        case ModelFaultKind.PROSE:
            text = f"Here is what {{you}} asked for.\n```json\n{answer.text}\n```\nI hope that it helps."
            return replace(answer, text=text, has_tool_call=False)
        case ModelFaultKind.NO_TOOL_CALL:
            return replace(answer, text="I would explain it in words instead.", has_tool_call=False)
        case ModelFaultKind.WRONG_SCHEMA:
            return replace(answer, text='{"unexpected": true}')
        case ModelFaultKind.EMPTY_CODE:
            return replace(answer, text=_without_code(answer.text))
        case ModelFaultKind.EMPTY_REPLY:
            return replace(answer, text="", has_tool_call=False)
        case ModelFaultKind.CONTENT_FILTER:
            return replace(answer, text="", has_tool_call=False, finish=FinishReason.CONTENT_FILTER)
        case ModelFaultKind.REFUSAL:
            text = "I cannot help with that."
            return replace(answer, text=text, has_tool_call=False, finish=FinishReason.REFUSAL)
        case ModelFaultKind.NO_USAGE:
            return replace(answer, usage=None)
        case _:
            return answer


def _without_code(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    return json.dumps(value | {"code": ""}) if isinstance(value, dict) and "code" in value else ""


def _answer_of(cassette: Cassette) -> WireAnswer:
    return WireAnswer(text=cassette.text, finish=cassette.finish, model=cassette.model, usage=cassette.usage)


def _cassette_of(question: Question, answer: WireAnswer) -> Cassette:
    return Cassette(
        operation=question.operation,
        model=question.model,
        sample=question.sample,
        asked_again=question.asked_again,
        messages=question.messages,
        text=answer.text,
        finish=answer.finish,
        usage=answer.usage,
    )


def _fingerprint(operation: str, sample: int, request: ServedRequest) -> str:
    """Of exactly this request, unlike the canonical key of its cassette."""
    content = repr((operation, sample, request.model, request.messages))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
