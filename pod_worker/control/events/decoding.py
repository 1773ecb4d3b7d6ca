"""Decodes and validates one event. CONTRACT sections 1 and 2.

Reads the top-level form of `seq`, `attempt` and `traceparent` and the nested `extensions` of older emitters.
Knows nothing of HTTP, batches or the database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from pod_worker.control.events.incoming import IncomingEvent, InvalidEventError
from pod_worker.control.events.struct_types import struct_of
from pod_worker.core.event import ID_LIMIT, Event
from pod_worker.core.payload import LOG_MESSAGE_BYTES, PAYLOADS, RENAMED, Payload, RunLog
from pod_worker.core.run import Json

SUBJECTS = frozenset({"run", "ideation", "pod", "hypothesis"})
NAME_LIMIT = 256
KEY_LIMIT = 1024  # of an object, in S3
DEPTH_LIMIT = 64
INTEGER_DIGITS = 15  # more do not fit any integer attribute
_BRACE, _BRACKET = ord("{"), ord("[")  # counting a byte value is faster than counting a byte string
_QUOTED_PAIR = re.compile(r"\\(.)")

_Text = Annotated[str, Meta(min_length=1, max_length=2048)]
_Seq = Annotated[int, Meta(ge=0, lt=10**12)]
_Attempt = Annotated[int, Meta(ge=0, lt=10**8)]


class _Extensions(msgspec.Struct):
    seq: _Seq | None = None
    attempt: _Attempt | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class _Envelope(Event):
    """An event with the attributes that only ingest reads."""

    id: Annotated[str, Meta(min_length=1, max_length=ID_LIMIT)]
    source: _Text
    type: _Text
    subject: _Text
    time: Annotated[datetime, Meta(tz=True)]
    seq: _Seq | None = None
    attempt: _Attempt | None = None
    specversion: Literal["1.0"] = field(kw_only=True)
    datacontenttype: str | None = None
    extensions: _Extensions | None = None


class _IdOnly(msgspec.Struct):
    id: str | None = None


_Read = struct_of(_Envelope)
_read = msgspec.json.Decoder(_Read).decode
_just_id = msgspec.json.Decoder(_IdOnly).decode
_NAME = Meta(min_length=1, max_length=NAME_LIMIT)
_WORD = Meta(max_length=NAME_LIMIT)
_LIMITS = {
    **dict.fromkeys(("stage", "name"), _NAME),
    **dict.fromkeys(("kind", "role", "content_type", "sha256", "unit"), _WORD),
    "key": Meta(max_length=KEY_LIMIT),
}
_PAYLOADS = {name: struct_of(kind, RENAMED, _LIMITS) for name, kind in PAYLOADS.items()}


def read_line(line: bytes, line_number: int = 1) -> IncomingEvent:
    """The event of one line. Raises InvalidEventError."""
    try:
        read = _read(line)
    except msgspec.ValidationError as error:
        raise InvalidEventError("bad_event", str(error), _id_of(line)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEventError("bad_json", f"not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise InvalidEventError("too_deep", f"nested deeper than {DEPTH_LIMIT} levels") from None
    # No line is deeper than it has brackets that open, and most have one or two.
    return _validated(read, line_number, may_be_deep=line.count(_BRACE) + line.count(_BRACKET) > DEPTH_LIMIT)


def read_binary(headers: Mapping[str, str], body: bytes) -> IncomingEvent:
    """CloudEvents' binary mode: the attributes are `ce-*` headers, the body is `data`.

    Header values are percent-encoded UTF-8 and may be quoted (CloudEvents HTTP binding 1.0.2, section 3.1.3.2).
    Raises InvalidEventError.
    """
    attributes: dict[str, Any] = {
        name[3:].lower(): _header_text(name, value)
        for name, value in headers.items()
        if name.lower().startswith("ce-")
    }
    event_id = attributes.get("id")
    for name in ("seq", "attempt"):
        text = attributes.get(name, "")
        if text.isascii() and text.isdigit() and len(text) <= INTEGER_DIGITS:
            attributes[name] = int(text)
    attributes.pop("extensions", None)
    try:
        attributes["data"] = msgspec.json.decode(body)
        read = msgspec.convert(attributes, _Read)
    except msgspec.ValidationError as error:
        raise InvalidEventError("bad_event", str(error), event_id) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEventError("bad_json", f"the body is not JSON in UTF-8: {error}", event_id) from None
    except RecursionError:
        raise InvalidEventError("too_deep", f"nested deeper than {DEPTH_LIMIT} levels", event_id) from None
    return _validated(read, 1, may_be_deep=True)


def _header_text(name: str, value: str) -> str:
    """The attribute that a header value stands for.

    HTTP libraries decode headers as Latin-1.
    """
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeError:
        raise InvalidEventError("bad_event", f"header {name} is not percent-encoded UTF-8") from None


def _validated(read: _Envelope, line_number: int, *, may_be_deep: bool) -> IncomingEvent:
    if may_be_deep and _depth(read.data) > DEPTH_LIMIT:
        raise InvalidEventError("too_deep", f"data is nested deeper than {DEPTH_LIMIT} levels", read.id)
    kind = read.type
    if not kind.startswith("ai."):
        raise InvalidEventError("unknown_type", f"type {kind[:100]!r} is not an ai.* type", read.id)
    media_type = read.datacontenttype
    if media_type is not None and media_type != "application/json" and not _is_json(media_type):
        raise InvalidEventError("bad_event", "datacontenttype must be application/json", read.id)
    run_id = _run_of(read.subject)
    if run_id is None or read.data.get("run_id") != run_id:
        _check_subject(read, run_id)
    payload = payload_of(kind, read.data, read.id)
    if kind == RunLog.type:
        _cut_message(read.data)
    is_plain = read.time.tzinfo is UTC and read.extensions is None
    return IncomingEvent(read if is_plain else _normalised(read), payload, run_id, line_number)


def payload_of(kind: str, data: dict[str, Json], event_id: str | None = None) -> Payload | None:
    """The typed payload; None for a type that is not in the contract.

    Raises InvalidEventError.
    """
    found = _PAYLOADS.get(kind)
    if found is None:
        return None
    try:
        return msgspec.convert(data, found)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`data.")
        raise InvalidEventError("bad_data", f"{kind}: {text}", event_id) from None


def _check_subject(read: _Envelope, run_id: str | None) -> None:
    """Raises InvalidEventError unless subject and `data.run_id` name the same run."""
    if run_id is None and not _is_known(read.subject):
        wanted = "run/<id>, ideation/<id>, pod/<id> or hypothesis/<id>"
        raise InvalidEventError("bad_subject", f"subject {read.subject[:100]!r} must be {wanted}", read.id)
    if run_id is not None:
        found = read.data.get("run_id")
        given = f"is {str(found)[:100]!r}" if found is not None else "is missing"
        raise InvalidEventError(
            "run_mismatch", f"data.run_id {given}, the subject names run {run_id[:100]!r}", read.id
        )


@lru_cache(maxsize=1024)  # most batches are about one run
def _run_of(subject: str) -> str | None:
    """The run's id; None for a subject of another kind and for an invalid one."""
    kind, _, name = subject.partition("/")
    return name if kind == "run" and _is_known(subject) else None


def _is_known(subject: str) -> bool:
    kind, _, name = subject.partition("/")
    return kind in SUBJECTS and 0 < len(name) <= ID_LIMIT and "\0" not in name


def _normalised(read: _Envelope) -> Event:
    """The event with nested attributes at its top level, and its time in UTC.

    Older emitters nest them.
    """
    nested = read.extensions or _Extensions()
    try:
        time = read.time.astimezone(UTC)
    except OverflowError:
        raise InvalidEventError("bad_event", "time is outside the calendar", read.id) from None
    return Event(
        read.id,
        read.source,
        read.type,
        read.subject,
        time,
        read.data,
        seq=read.seq if read.seq is not None else nested.seq,
        attempt=read.attempt if read.attempt is not None else nested.attempt,
        traceparent=read.traceparent or nested.traceparent,
    )


def _cut_message(data: dict[str, Json]) -> None:
    message = data["message"]
    if len(message) * 4 <= LOG_MESSAGE_BYTES:
        return
    raw = message.encode()
    if len(raw) > LOG_MESSAGE_BYTES:
        note = f" [cut: {len(raw)} bytes, {LOG_MESSAGE_BYTES} allowed]"
        data["message"] = raw[: LOG_MESSAGE_BYTES - len(note)].decode("utf-8", "ignore") + note


def _is_json(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _depth(value: Json) -> int:
    """Levels of nesting, without recursion: it may exceed the recursion limit."""
    depth, layer = 0, [value]
    while layer and depth <= DEPTH_LIMIT:
        depth += 1
        layer = [
            inner
            for each in layer
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _id_of(line: bytes) -> str | None:
    try:
        return _just_id(line).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
