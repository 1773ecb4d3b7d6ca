"""From one line of JSON to a checked event, or to the reason why not. CONTRACT sections 1 and 2.

Reads the top-level form of `seq`, `attempt` and `traceparent` and the nested `extensions` of older emitters.
Knows nothing of HTTP, batches or the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pod_worker.core.event import ID_LIMIT, Event
from pod_worker.core.payload import LOG_MESSAGE_BYTES, PAYLOADS, RENAMED, Payload
from pod_worker.core.run import Json

SUBJECTS = frozenset({"run", "ideation", "pod", "hypothesis"})
NAME_LIMIT = 256
DEPTH_LIMIT = 64

_Text = Annotated[str, Meta(min_length=1, max_length=2048)]
_Seq = Annotated[int, Meta(ge=0, lt=10**12)]
_Attempt = Annotated[int, Meta(ge=0, lt=10**8)]


class _Extensions(msgspec.Struct):
    seq: _Seq | None = None
    attempt: _Attempt | None = None
    traceparent: str | None = None


class _Envelope(msgspec.Struct):
    specversion: Literal["1.0"]
    id: Annotated[str, Meta(min_length=1, max_length=ID_LIMIT)]
    source: _Text
    type: _Text
    subject: _Text
    time: Annotated[datetime, Meta(tz=True)]
    data: dict[str, Json]
    datacontenttype: str | None = None
    seq: _Seq | None = None
    attempt: _Attempt | None = None
    traceparent: str | None = None
    extensions: _Extensions | None = None


class _JustId(msgspec.Struct):
    id: str | None = None


class Arrival(msgspec.Struct, frozen=True):
    """A good event. `payload` is None for an `ai.*` type that this version does not know."""

    event: Event
    payload: Payload | None
    run_id: str | None


class Refused(ValueError):
    """Why a line is no event of ours. `code` is for programs, the text for people."""

    def __init__(self, code: str, error: str, event_id: str | None = None) -> None:
        super().__init__(error)
        self.code, self.error, self.event_id = code, error, event_id


_envelope = msgspec.json.Decoder(_Envelope).decode
_just_id = msgspec.json.Decoder(_JustId).decode
_BACK = {
    kind: {RENAMED[name]: name for name in kind.__dataclass_fields__ if name in RENAMED}
    for kind in PAYLOADS.values()
}
_NAMES = ("stage", "name")
_FLAT = frozenset({str, int, float, bool, type(None)})


def read_line(line: bytes) -> Arrival:
    """Raises Refused."""
    try:
        envelope = _envelope(line)
    except msgspec.ValidationError as error:
        raise Refused("bad_event", str(error), _id_of(line)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("bad_json", f"not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise Refused("too_deep", f"nested deeper than {DEPTH_LIMIT} levels") from None
    return _checked(envelope)


def read_binary(headers: Mapping[str, str], body: bytes) -> Arrival:
    """CloudEvents' binary mode: the attributes are `ce-*` headers, the body is `data`. Raises Refused."""
    attributes: dict[str, Any] = {
        name[3:].lower(): value for name, value in headers.items() if name.lower().startswith("ce-")
    }
    event_id = attributes.get("id")
    for name in ("seq", "attempt"):
        if name in attributes and attributes[name].isascii() and attributes[name].isdigit():
            attributes[name] = int(attributes[name])
    attributes.pop("extensions", None)
    try:
        attributes["data"] = msgspec.json.decode(body)
        envelope = msgspec.convert(attributes, _Envelope)
    except msgspec.ValidationError as error:
        raise Refused("bad_event", str(error), event_id) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("bad_json", f"the body is not JSON in UTF-8: {error}", event_id) from None
    except RecursionError:
        raise Refused("too_deep", f"nested deeper than {DEPTH_LIMIT} levels", event_id) from None
    return _checked(envelope)


def _checked(envelope: _Envelope) -> Arrival:
    if _is_nested(envelope.data) and _depth(envelope.data) > DEPTH_LIMIT:
        raise Refused("too_deep", f"data is nested deeper than {DEPTH_LIMIT} levels", envelope.id)
    if not envelope.type.startswith("ai."):
        raise Refused("unknown_type", f"type {envelope.type[:100]!r} is not an ai.* type", envelope.id)
    if envelope.datacontenttype is not None and not _is_json(envelope.datacontenttype):
        raise Refused("bad_event", "datacontenttype must be application/json", envelope.id)
    run_id = _checked_subject(envelope)
    payload = payload_of(envelope.type, envelope.data, envelope.id)
    return Arrival(_event(envelope), payload, run_id)


def payload_of(kind: str, data: dict[str, Json], event_id: str | None = None) -> Payload | None:
    """The typed payload; None for a type that is not in the contract. Raises Refused."""
    found = PAYLOADS.get(kind)
    if found is None:
        return None
    back = _BACK[found]
    if back:
        data = {back.get(name, name): value for name, value in data.items()}
    try:
        payload = msgspec.convert(data, found)
    except msgspec.ValidationError as error:
        text = str(error).replace("`$.", "`data.").replace("from_", "from")
        raise Refused("bad_data", f"{kind}: {text}", event_id) from None
    for field in _NAMES:
        name = getattr(payload, field, None)
        if name is not None and not 0 < len(name) <= NAME_LIMIT:
            raise Refused("bad_data", f"{kind}: data.{field} must have 1 to {NAME_LIMIT} characters", event_id)
    return payload


def _checked_subject(envelope: _Envelope) -> str | None:
    """The run that the event is about, if any."""
    kind, _, name = envelope.subject.partition("/")
    if kind not in SUBJECTS or not 0 < len(name) <= ID_LIMIT or "\0" in name:
        wanted = "run/<id>, ideation/<id>, pod/<id> or hypothesis/<id>"
        raise Refused("bad_subject", f"subject {envelope.subject[:100]!r} must be {wanted}", envelope.id)
    if kind == "run" and envelope.data.get("run_id") != name:
        found = envelope.data.get("run_id")
        said = f"is {str(found)[:100]!r}" if found is not None else "is missing"
        raise Refused("run_mismatch", f"data.run_id {said}, the subject names run {name[:100]!r}", envelope.id)
    return name if kind == "run" else None


def _event(envelope: _Envelope) -> Event:
    nested = envelope.extensions or _NOTHING
    time = envelope.time
    if time.tzinfo is not UTC:
        try:
            time = time.astimezone(UTC)
        except OverflowError:
            raise Refused("bad_event", "time is outside the calendar", envelope.id) from None
    if envelope.type == "ai.run.log":
        _cut_message(envelope.data)
    return Event(
        id=envelope.id,
        source=envelope.source,
        type=envelope.type,
        subject=envelope.subject,
        time=time,
        data=envelope.data,
        seq=envelope.seq if envelope.seq is not None else nested.seq,
        attempt=envelope.attempt if envelope.attempt is not None else nested.attempt,
        traceparent=envelope.traceparent or nested.traceparent,
    )


_NOTHING = _Extensions()


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


def _is_nested(data: dict[str, Json]) -> bool:
    return not _FLAT.issuperset(map(type, data.values()))


def _depth(value: Json) -> int:
    """Without recursion: this is asked about what may be nested far too deep."""
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
