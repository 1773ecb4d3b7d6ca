"""A conversation without what differs between equal runs: a cassette's key.

Ids, absolute paths, dates and durations become marks. The schema in words is cut, so that one cassette serves a
model under every output profile. Questions that ask for a better answer are counted and cut: they quote an answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

from pod_worker.core.research.completion import ChatMessage
from pod_worker.core.run import Json
from pod_worker.llm.structured_output import ASKED_AGAIN, SCHEMA_INSTRUCTION

_MARKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b"), "<id>"),  # ULID
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,64}\b"), "<id>"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?"), "<time>"),
    (re.compile(r"(?<![\w.<:/])(/[\w.@+-]+){2,}"), "<path>"),
    (re.compile(r"\b\d+(\.\d+)?(e-?\d+)? ?(ns|us|µs|ms|s|sec|secs|seconds|min|minutes|h|hours)\b"), "<duration>"),
)


def canonical_text(text: str) -> str:
    cut = text.partition(f"\n\n{SCHEMA_INSTRUCTION}")[0]
    for pattern, mark in _MARKS:
        cut = pattern.sub(mark, cut)
    return "\n".join(line.rstrip() for line in cut.strip().splitlines())


def canonical_messages(messages: Iterable[ChatMessage]) -> list[dict[str, Json]]:
    """Role, text and the hashes of pictures.

    System messages come first and are one, as on Anthropic's wire.
    """
    found = list(messages)
    system = "\n\n".join(each.text for each in found if each.role == "system")
    ordered = [ChatMessage("system", system)] if system else []
    ordered += [each for each in found if each.role != "system"]
    return [_canonical(each) for each in ordered]


def _canonical(message: ChatMessage) -> dict[str, Json]:
    canonical: dict[str, Json] = {"role": message.role, "text": canonical_text(message.text)}
    if message.images:
        canonical["images"] = [hashlib.sha256(each.data).hexdigest() for each in message.images]
    return canonical


def split_asked_again(messages: Sequence[ChatMessage]) -> tuple[Sequence[ChatMessage], int]:
    """The first question alone, and how often it was asked again."""
    count = 0
    while len(messages) > 2 and messages[-1].role == "user" and messages[-1].text.startswith(ASKED_AGAIN):
        messages = messages[:-2]
        count += 1
    return messages, count


def cassette_key(
    operation: str, model: str, sample: int, asked_again: int, messages: list[dict[str, Json]]
) -> str:
    content = json.dumps([operation, model, sample, asked_again, messages], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
