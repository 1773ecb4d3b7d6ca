"""Recorded answers of a model, one JSON file each.

They are found by operation, model and canonical messages.

A request without a recording is an error that names its key and the nearest recording; no answer is invented.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import FailureCode, truncate
from pod_worker.core.research.completion import ChatMessage, TokenUsage
from pod_worker.llm.cassettes.canonical import canonical_messages, cassette_key, split_asked_again
from pod_worker.llm.wire import FinishReason, WireAnswer, WireError, WireRequest

_NEAREST_LIMIT = 200  # recordings that are compared
_COMPARED_CHARACTERS = 20_000
_DIFFERENCE_LIMIT = 160


class Cassette(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded answer.

    `messages` are canonical; they are kept to be read and compared.
    """

    operation: str
    model: str
    messages: list[dict[str, Any]]
    text: str
    sample: int = 0
    asked_again: int = 0  # how many unusable answers came before this one
    finish: FinishReason = FinishReason.STOP
    usage: TokenUsage | None = None

    @property
    def key(self) -> str:
        return cassette_key(self.operation, self.model, self.sample, self.asked_again, self.messages)


@dataclass(frozen=True, slots=True)
class Question:
    """What a cassette is found by, from either wire."""

    operation: str
    model: str
    sample: int
    asked_again: int
    messages: list[dict[str, Any]]

    @property
    def key(self) -> str:
        return cassette_key(self.operation, self.model, self.sample, self.asked_again, self.messages)


def question_of(operation: str, model: str, sample: int, messages: tuple[ChatMessage, ...]) -> Question:
    first, asked_again = split_asked_again(messages)
    return Question(operation, model, sample, asked_again, canonical_messages(first))


class CassetteError(Exception):
    """A recording cannot be used or is not there; the message names it."""


class Cassettes:
    """The recordings of a folder, all read at once. Safe for several threads."""

    def __init__(self, folder: Path, redactor: Redactor | None = None) -> None:
        """Raises CassetteError for a folder or a file that cannot be read."""
        self._folder = folder
        self._redactor = redactor or Redactor()
        self._lock = threading.Lock()
        if not folder.is_dir():
            raise CassetteError(f"{folder} is no folder. Name a folder of cassettes.")
        self._found = {each.key: each for each in map(_read, sorted(folder.rglob("*.json")))}

    def __len__(self) -> int:
        return len(self._found)

    def models(self) -> list[str]:
        return sorted({each.model for each in self._found.values()})

    def find(self, question: Question) -> Cassette | None:
        with self._lock:
            return self._found.get(question.key)

    def require(self, question: Question) -> Cassette:
        """Raises CassetteError that names the key and the nearest recording.

        A question that was asked again, for example after a fault, gets the answer recorded for an earlier turn.
        """
        turns = range(question.asked_again, -1, -1)
        found = next((each for turn in turns if (each := self.find(replace(question, asked_again=turn)))), None)
        if found is None:
            raise CassetteError(
                f"no cassette for {question.operation} of {question.model} with key {question.key[:16]}; "
                f"{self._nearest(question)}"
            )
        return found

    def add(self, cassette: Cassette) -> Cassette:
        """Keep an answer, without secrets. Atomic."""
        clean = msgspec.convert(self._redactor.redact_json(msgspec.to_builtins(cassette)), Cassette)
        name = re.sub(r"[^\w.-]", "_", cassette.operation) or "chat"
        path = self._folder / f"{name}-{clean.key[:16]}.json"
        fresh = path.with_name(f".{path.name}.{threading.get_ident()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(clean), indent=1) + b"\n")
        os.replace(fresh, path)
        with self._lock:
            self._found[cassette.key] = clean
        return clean

    def _nearest(self, question: Question) -> str:
        with self._lock:
            known = list(self._found.values())
        if not known:
            return f"{self._folder.name} holds none. Record some with `pod-worker llm replay DIR --record URL`."
        same = [each for each in known if each.operation == question.operation] or known
        asked = _plain(question.messages)
        scored = [(_similarity(asked, _plain(each.messages)), each) for each in same[:_NEAREST_LIMIT]]
        ratio, nearest = max(scored, key=lambda each: each[0])
        return (
            f"the nearest is {nearest.operation} of {nearest.model} with key {nearest.key[:16]} "
            f"({ratio:.0%} alike): {_difference(question, nearest)}"
        )


class CassetteWire:
    """Implements `wire.WireClient` with the recordings of a folder, without a server."""

    provider = "replay"
    takes_facts = False

    def __init__(self, cassettes: Cassettes) -> None:
        self._cassettes = cassettes

    def close(self) -> None:
        """It holds nothing open."""

    def send(self, request: WireRequest) -> WireAnswer:
        question = question_of(request.operation, request.model, request.sample, request.messages)
        try:
            found = self._cassettes.require(question)
        except CassetteError as error:
            raise WireError(FailureCode.INVALID_INPUT, str(error)) from None
        return WireAnswer(
            text=found.text, finish=found.finish, model=found.model, usage=found.usage, has_tool_call=True
        )


def _read(path: Path) -> Cassette:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cassette)
    except (OSError, msgspec.MsgspecError) as error:
        raise CassetteError(f"{path} is no cassette: {error}") from None


def _plain(messages: list[dict[str, Any]]) -> str:
    return "\n".join(f"{each['role']}: {each['text']}" for each in messages)


def _similarity(left: str, right: str) -> float:
    matcher = difflib.SequenceMatcher(None, left[:_COMPARED_CHARACTERS], right[:_COMPARED_CHARACTERS], False)
    return matcher.quick_ratio()


def _difference(question: Question, nearest: Cassette) -> str:
    """The first thing that differs."""
    for name in ("operation", "model", "sample"):
        asked, kept = getattr(question, name), getattr(nearest, name)
        if asked != kept:
            return f"{name} is {asked!r}, recorded {kept!r}"
    pairs = zip(_plain(question.messages).splitlines(), _plain(nearest.messages).splitlines(), strict=False)
    for number, (asked, kept) in enumerate(pairs, 1):
        if asked != kept:
            shown = truncate(asked, _DIFFERENCE_LIMIT), truncate(kept, _DIFFERENCE_LIMIT)
            return f"line {number} is {shown[0]!r}, recorded {shown[1]!r}"
    return "one of them has more lines or other pictures"
