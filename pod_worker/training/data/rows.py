"""Reads a data set into rows of one format, or names the wrong line.

A row is `messages` (a conversation), `prompt` + `completion`, or `text`. Nothing is guessed per row: the first
row fixes the format of the file unless it is given. Knows no tokenizer and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.training.data.json_lines import json_lines
from pod_worker.training.params import Format

SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as the template wants them: dicts with at least `role` and `content`."""

    messages: tuple[dict[str, Json], ...]
    tools: tuple[dict[str, Json], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    text: str


Content: TypeAlias = Conversation | Completion | Text


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """`location` is `file:line`, for every message about this row."""

    location: str
    content: Content


class RowError(Exception):
    """Why one line is not a row; collected, then reported together."""


def read_rows(path: Path, format: Format = "auto", limit: int = 0) -> list[DatasetRow]:
    """All rows (or the first `limit`).

    Raises RunError(INVALID_INPUT) that names the file and the lines.
    """
    rows: list[DatasetRow] = []
    problems: list[str] = []
    for number, line in json_lines(path):
        if limit and len(rows) == limit:
            break
        try:
            fields = _decode(line)
            format = _format_of(fields) if format == "auto" else format
            rows.append(DatasetRow(f"{path.name}:{number}", _READERS[format](fields)))
        except RowError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise _invalid_dataset(path, problems)
    if not rows:
        raise RunError(FailureCode.INVALID_INPUT, f"data set {path} is empty: give one JSON object a line")
    return rows


def _invalid_dataset(path: Path, problems: list[str]) -> RunError:
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more bad lines" if len(problems) > SHOWN_PROBLEMS else ""
    return RunError(FailureCode.INVALID_INPUT, f"data set {path}: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}")


def _decode(line: bytes) -> dict[str, Json]:
    try:
        value = msgspec.json.decode(line.decode())
    except UnicodeDecodeError as error:
        raise RowError(f"not valid UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except msgspec.DecodeError as error:
        raise RowError(f"not valid JSON ({error}); each line must be one JSON object") from None
    if not isinstance(value, dict):
        raise RowError(f"a JSON {type(value).__name__}, not an object")
    return value


def _format_of(fields: dict[str, Json]) -> Format:
    if "messages" in fields:
        return "messages"
    if "prompt" in fields and "completion" in fields:
        return "prompt_completion"
    if "text" in fields:
        return "text"
    raise RowError(f"has {_names(fields)}; needs 'messages', or 'prompt' and 'completion', or 'text'")


def _names(fields: dict[str, Json]) -> str:
    return ", ".join(repr(name) for name in list(fields)[:8]) or "no fields"


def _string(fields: dict[str, Json], name: str, where: str = "") -> str:
    if name not in fields:
        raise RowError(f"{where}has no {name!r} (has {_names(fields)})")
    value = fields[name]
    if not isinstance(value, str):
        raise RowError(f"{where}{name!r} is a {type(value).__name__}, not text")
    return value


def _conversation(fields: dict[str, Json]) -> Content:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RowError("'messages' is missing" if messages is None else "'messages' is not a list of messages")
    messages = [_read_message(message, f"message {position} ") for position, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("no message has the role 'assistant', so there is nothing to learn")
    tools = fields.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("'tools' is not a list of JSON schemas")
    return Conversation(tuple(messages), tuple(tools))


def _read_message(message: Json, where: str) -> dict[str, Json]:
    """The message with the arguments of its tool calls as objects.

    This is what chat templates expect.
    """
    if not isinstance(message, dict):
        raise RowError(f"{where}is not an object with 'role' and 'content'")
    _string(message, "role", where)
    calls = message.get("tool_calls")
    if not calls:
        _string(message, "content", where)
        return message
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError(f"{where}'tool_calls' is not a list of objects")
    return message | {"tool_calls": [_read_call(call, where) for call in calls]}


def _read_call(call: dict[str, Json], where: str) -> dict[str, Json]:
    function = call.get("function")
    if isinstance(function, dict):
        return call | {"function": _with_parsed_arguments(function, where)}
    return _with_parsed_arguments(call, where)


def _with_parsed_arguments(function: dict[str, Json], where: str) -> dict[str, Json]:
    """Arguments as an object, also where they are JSON text, as OpenAI writes them.

    Left so, a template with `| tojson` would quote them twice.
    """
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return function
    try:
        parsed = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError as error:
        raise RowError(f"{where}the arguments of a tool call are not valid JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise RowError(f"{where}the arguments of a tool call are a {type(parsed).__name__}, not an object")
    return function | {"arguments": parsed}


def _completion(fields: dict[str, Json]) -> Content:
    completion = _string(fields, "completion")
    if not completion:
        raise RowError("'completion' is empty, so there is nothing to learn")
    return Completion(_string(fields, "prompt"), completion)


def _text(fields: dict[str, Json]) -> Content:
    text = _string(fields, "text")
    if not text:
        raise RowError("'text' is empty, so there is nothing to learn")
    return Text(text)


_READERS = {"messages": _conversation, "prompt_completion": _completion, "text": _text}
