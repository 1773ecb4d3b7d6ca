"""JSON answers: how they are asked for, read, checked, and asked for again.

A model writes prose around JSON, wraps it in a fence, stops in the middle, or misses a field. `read_answer` finds
the object and checks it; `AnswerProblem` says what is wrong in words that go back to the model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from pod_worker.core.failure import truncate
from pod_worker.core.research.completion import ChatMessage
from pod_worker.core.run import Json
from pod_worker.llm.capability import ModelCapability, OutputProfile
from pod_worker.llm.wire import FinishReason, WireAnswer, WireRequest

SCHEMA_INSTRUCTION = "Answer with one JSON object that fits this JSON Schema, and with nothing else:"
ASKED_AGAIN = "This answer cannot be used:"
_QUOTED_LIMIT = 20_000  # characters of a wrong answer that are shown to the model again
_PROBLEMS_LIMIT = 5
_CANDIDATES_LIMIT = 200  # opening braces that are tried
_FENCE = re.compile(r"```(?:json|JSON)?\s*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AnswerProblem:
    """Why an answer cannot be used."""

    text: str


def instructed(
    messages: tuple[ChatMessage, ...], schema: Mapping[str, Json] | None, capability: ModelCapability
) -> tuple[ChatMessage, ...]:
    """The messages, with the schema in words where the server does not enforce it."""
    if schema is None or capability.output in (OutputProfile.JSON_SCHEMA, OutputProfile.TOOLS):
        return messages
    shown = json.dumps(schema, ensure_ascii=False, sort_keys=True)
    last = messages[-1]
    return (*messages[:-1], replace(last, text=f"{last.text}\n\n{SCHEMA_INSTRUCTION}\n{shown}"))


def without_images(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
    """For a model that reads no pictures: a note in place of each message's pictures."""
    return tuple(
        replace(each, images=(), text=f"{each.text}\n[{len(each.images)} pictures left out]")
        if each.images
        else each
        for each in messages
    )


def read_answer(answer: WireAnswer, request: WireRequest) -> Json | AnswerProblem:
    """The value that the answer holds; its text where no schema is asked for."""
    if problem := _finish_problem(answer, request):
        return problem
    if request.schema is None:
        return answer.text
    value = find_object(answer.text, request.schema)
    if isinstance(value, AnswerProblem) and request.profile is OutputProfile.TOOLS and not answer.has_tool_call:
        return AnswerProblem(f"the answer has no tool call; {value.text}")
    return value


def _finish_problem(answer: WireAnswer, request: WireRequest) -> AnswerProblem | None:
    if answer.finish is FinishReason.CONTENT_FILTER:
        return AnswerProblem("the provider's content filter withheld the answer")
    if answer.finish is FinishReason.REFUSAL:
        return AnswerProblem(f"the model refused: {truncate(answer.text, 300) or 'without a reason'}")
    if answer.finish is FinishReason.LENGTH:
        return AnswerProblem(f"the answer was cut at {request.max_output_tokens} tokens; give a shorter one")
    if not answer.text.strip():
        return AnswerProblem("the answer is empty")
    return None


def find_object(text: str, schema: Mapping[str, Json]) -> Json | AnswerProblem:
    """The first JSON object in a text that fits the schema.

    Otherwise what is wrong with the longest one, which is most likely the intended one.
    """
    longest, problem = -1, AnswerProblem("the answer has no JSON object, or an incomplete one")
    for value, length in _candidates(text):
        problems = schema_problems(value, schema)
        if not problems:
            return _encodable_value(value)
        if length > longest:
            longest, problem = length, AnswerProblem("the JSON does not fit the schema: " + "; ".join(problems))
    return problem


def _candidates(text: str) -> Iterator[tuple[Json, int]]:
    """Values in a text and their lengths.

    First the whole text, then what fences hold, then each complete object.
    """
    for part in (text.strip(), *(found.group(1) for found in _FENCE.finditer(text))):
        try:
            yield _DECODER.decode(part), len(part)
        except (ValueError, RecursionError):
            continue
    position = text.find("{")
    for _ in range(_CANDIDATES_LIMIT):
        if position < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield value, end - position
        position = text.find("{", end)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 is infinite in Python, and no JSON when it is written again
        raise ValueError(f"{digits} is too large")
    return value


# Not strict: raw newlines inside texts are read.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, strict=False)


def encodable(text: str) -> str:
    """The text with `?` for surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _encodable_value(value: Json) -> Json:
    return json.loads(encodable(json.dumps(value, ensure_ascii=False)))


def schema_problems(value: Json, schema: Mapping[str, Json]) -> list[str]:
    """What does not fit, with its place; at most five."""
    from jsonschema import Draft202012Validator  # takes 0.1 s to import

    validator = Draft202012Validator(schema)
    found = sorted(
        validator.iter_errors(value), key=lambda error: (len(error.absolute_path), str(error.absolute_path))
    )
    return [
        f"{'.'.join(map(str, error.absolute_path)) or 'answer'}: {truncate(error.message, 200)}"
        for error in found[:_PROBLEMS_LIMIT]
    ]


def asked_again(request: WireRequest, answer: WireAnswer, problem: AnswerProblem) -> WireRequest:
    """The next request: the wrong answer and what is wrong with it."""
    form = (
        "" if request.schema is None else " Answer again with only the complete JSON object that fits the schema."
    )
    said = ChatMessage("assistant", truncate(answer.text, _QUOTED_LIMIT) or "(empty)")
    asked = ChatMessage("user", f"{ASKED_AGAIN} {problem.text}.{form}")
    return replace(request, messages=(*request.messages, said, asked))
