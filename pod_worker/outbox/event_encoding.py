"""From a payload to the JSON of its `data`, strict about what ingest would refuse.

NaN, infinities and values that are not JSON raise `EncodingError`, which names the field; nothing is silently
turned into null. It knows no files and no envelope.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, replace
from enum import Enum
from typing import Any, get_args

import msgspec

from pod_worker.core.payload import LOG_MESSAGE_BYTES, RENAMED, LogLevel, Payload, RunLog
from pod_worker.core.run import Json

LINE_LIMIT_BYTES = 1024 * 1024  # what ingest takes (CONTRACT section 3)
_INT_LIMIT = 1 << 63  # BSON's largest integer
_DEPTH_LIMIT = 60  # ingest takes 64 levels, the envelope's own included
_LEVELS = frozenset(get_args(LogLevel))
_SHOWN_LIMIT = 200
_encode = msgspec.json.Encoder().encode


class EncodingError(ValueError):
    """A payload that ingest could only refuse. `field` is its dotted name."""

    def __init__(self, kind: str, field: str, problem: str) -> None:
        super().__init__(f"{kind}: field {field} {problem}")
        self.field = field


_Plan = tuple[tuple[str, str, bool], ...]
_PLANS: dict[type[Payload], _Plan] = {}


def _plan(kind: type[Payload]) -> _Plan:
    """(attribute, name on the wire, required) of each field.

    It is worked out once per payload type.
    """
    found = tuple(
        (field.name, RENAMED.get(field.name, field.name), field.default is MISSING) for field in fields(kind)
    )
    _PLANS[kind] = found
    return found


def encode_data(payload: Payload) -> bytes:
    """The payload's fields as a JSON object, without those that are None.

    Raises EncodingError (a ValueError) naming the first field that cannot be sent.
    """
    kind = type(payload)
    if kind is RunLog:
        payload = _sendable_log(payload)  # type: ignore[arg-type]
    values: dict[str, Json] = {}
    for name, wire, required in _PLANS.get(kind) or _plan(kind):
        value = getattr(payload, name)
        exact = type(value)
        if (
            exact is str
            or (exact is float and math.isfinite(value))
            or (exact is int and -_INT_LIMIT <= value < _INT_LIMIT)
            or exact is bool
        ):
            values[wire] = value
        elif value is not None:
            values[wire] = _to_json(value, wire, kind.__name__)
        elif required:
            raise EncodingError(kind.__name__, wire, "is None; give it a value")
    try:
        return _encode(values)
    except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
        return _encode({name: _to_json(value, name, kind.__name__) for name, value in values.items()})


def replacement_log(payload: Payload, problem: ValueError) -> RunLog:
    """The warning that replaces a metric, log or progress event that cannot be sent."""
    if isinstance(payload, RunLog):  # the message matters more than its kv
        return replace(payload, kv={"left_out": str(problem)}, source="outbox")
    shown = {wire: _preview(getattr(payload, name)) for name, wire, _ in _PLANS.get(type(payload)) or ()}
    return RunLog(level="warn", message=f"{payload.type} was not recorded: {problem}", kv=shown)


def _to_json(value: Any, path: str, kind: str, depth: int = 0) -> Json:
    """Exact JSON types only, or EncodingError.

    Numpy and torch scalars become numbers by their `item()`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _to_json(value.value, path, kind, depth + 1)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        if -_INT_LIMIT <= value < _INT_LIMIT:
            return int(value)
        raise EncodingError(kind, path, f"is {value}: integers above 64 bits do not fit; send it as text")
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise EncodingError(kind, path, f"is {value}, which JSON cannot carry; leave it out or send a finite one")
    if depth >= _DEPTH_LIMIT:
        raise EncodingError(kind, path, f"is nested deeper than {_DEPTH_LIMIT}; send a flatter value")
    if isinstance(value, dict):
        return {
            _key(key, path, kind): _to_json(inner, f"{path}.{key}", kind, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_to_json(inner, f"{path}[{index}]", kind, depth + 1) for index, inner in enumerate(value)]
    if callable(item := getattr(value, "item", None)) and getattr(value, "size", 1) == 1:
        return _to_json(item(), path, kind, depth + 1)
    raise EncodingError(kind, path, f"is a {type(value).__name__}, which is not JSON; send text or numbers")


def _key(key: Any, path: str, kind: str) -> str:
    if isinstance(key, str | int):
        return str(key).encode("utf-8", "backslashreplace").decode()
    raise EncodingError(kind, path, f"has a key of type {type(key).__name__}; keys must be text")


def _sendable_log(log: RunLog) -> RunLog:
    """Make a log line that can be kept.

    Truncates the message and replaces unknown levels and values that are not JSON.
    """
    if not isinstance(log.message, str):
        log = replace(log, message=str(log.message))
    if len(log.message) > LOG_MESSAGE_BYTES // 4:  # four bytes a character at most
        log = replace(log, message=truncate_bytes(log.message, LOG_MESSAGE_BYTES))
    if log.level not in _LEVELS:
        level: LogLevel = "error" if log.level in ("critical", "fatal") else "info"
        log = replace(log, level=level)
    if log.kv:
        try:
            log = replace(log, kv=_to_json(log.kv, "kv", "RunLog"))
        except (EncodingError, TypeError, RecursionError):
            log = replace(log, kv={str(key): _preview(value) for key, value in (log.kv or {}).items()})
    return log


def _preview(value: Any) -> Json:
    """The value itself if it is a small piece of JSON, else a short text about it."""
    try:
        plain = _to_json(value, "", "")
        if len(_encode(plain)) <= _SHOWN_LIMIT:
            return plain
    except (EncodingError, RecursionError, TypeError, RuntimeError):
        pass
    text = value if isinstance(value, str) else repr(value)
    return _to_json(text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}...", "", "")


def truncate_bytes(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, including the note that says how much was cut."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    note = f" [cut: {len(data)} bytes, {limit} allowed]"
    return data[: limit - len(note)].decode("utf-8", "ignore") + note
