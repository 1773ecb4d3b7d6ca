"""From a request's body to an `IngestBatch`: media type, gzip, lines, events.

Limits hold before memory is spent.

Knows nothing of routes and the database.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from email.message import Message

import msgspec

from pod_worker.control.events.decoding import read_binary, read_line
from pod_worker.control.events.incoming import InvalidEventError
from pod_worker.control.ingest.batch import IngestBatch
from pod_worker.control.web.body import BODY_LIMIT_BYTES
from pod_worker.control.web.problem import ProblemError

LINE_LIMIT_BYTES = 1024 * 1024
LINE_LIMIT = 10_000
GZIP_MEMBER_LIMIT = 10_000  # a log that is compressed line by line has one member a line
_GZIP_CHUNK_BYTES = 16 * 1024
_GZIP = 16 + zlib.MAX_WBITS

BATCH_TYPE = "application/cloudevents-batch+json"
_LINE_TYPES = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)
EVENTS_TYPES = _LINE_TYPES | {BATCH_TYPE}
EVENT_TYPES = frozenset({"application/cloudevents+json", "application/json"})
BINARY_TYPES = frozenset({"application/json"})


def media_type(headers: Mapping[str, str], allowed: frozenset[str]) -> str:
    """The media type, "" when none is given. Raises ProblemError 415."""
    given = headers.get("content-type", "")
    if given in allowed or not given:
        return given
    message = Message()
    message["content-type"] = given
    kind = given.partition(";")[0].strip().lower()
    if kind not in allowed:
        wanted = " or ".join(sorted(allowed))
        raise ProblemError(415, "bad_content_type", f"Content-Type {kind[:80]!r} is not read here: send {wanted}")
    charset = message.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii", ""):
        raise ProblemError(415, "bad_content_type", f"charset {charset[:40]!r} is not read: send UTF-8")
    return kind


def decode_event(headers: Mapping[str, str], body: bytes, *, is_binary: bool) -> IngestBatch:
    """A batch of the one event in the body. Raises ProblemError 400, 413 or 415."""
    body = decompress(body, headers.get("content-encoding", ""))
    _check_line(1, body)
    batch = IngestBatch(lines=[body])
    try:
        batch.events.append(read_binary(headers, body) if is_binary else read_line(body))
    except InvalidEventError as error:
        batch.add_refused(1, error)
    return batch


def decode_events(body: bytes, encoding: str, kind: str) -> IngestBatch:
    """A batch of NDJSON or of a JSON array. Raises ProblemError 400, 413, 415 or 422."""
    body = decompress(body, encoding)
    return read_batch(_array_lines(body) if kind == BATCH_TYPE else split_lines(body))


def read_batch(lines: Sequence[bytes]) -> IngestBatch:
    """A batch of NDJSON lines, blank ones skipped."""
    batch = IngestBatch(lines=lines)
    add = batch.events.append
    for line_number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            add(read_line(line, line_number))
        except InvalidEventError as error:
            batch.add_refused(line_number, error)
    return batch


def decompress(body: bytes, encoding: str) -> bytes:
    """Undo the content encoding. Raises ProblemError 400, 413 or 415."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body)
        case other:
            raise ProblemError(
                415, "bad_encoding", f"Content-Encoding {other[:40]!r} is not read: send gzip or none"
            )


def _gunzip(body: bytes) -> bytes:
    """All members of a gzip body. Stops at the limits of size and of members."""
    parts: list[bytes] = []
    offset = total = 0
    for _ in range(GZIP_MEMBER_LIMIT):
        if offset == len(body):
            return b"".join(parts)
        member = zlib.decompressobj(_GZIP)
        while not member.eof:
            # In chunks: the unused rest of the input is copied when a member ends.
            chunk = body[offset : offset + _GZIP_CHUNK_BYTES]
            if not chunk:
                raise ProblemError(400, "bad_gzip", "the gzip body ends too early")
            part = _inflate(member, chunk, BODY_LIMIT_BYTES - total + 1)
            total += len(part)
            if total > BODY_LIMIT_BYTES:
                raise _too_large("the decompressed body is longer")
            parts.append(part)
            offset += len(chunk) - len(member.unused_data)
    if offset == len(body):
        return b"".join(parts)
    raise _too_large(f"the gzip body has more than {GZIP_MEMBER_LIMIT} members")


def _inflate(member: zlib._Decompress, chunk: bytes, limit_bytes: int) -> bytes:
    try:
        return member.decompress(chunk, limit_bytes)
    except zlib.error as error:
        raise ProblemError(400, "bad_gzip", f"the gzip body cannot be read: {error}") from None


def split_lines(body: bytes) -> list[bytes]:
    """Every line, also the blank ones, so that their places are their numbers.

    Raises ProblemError 413.
    """
    lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(body) > LINE_LIMIT_BYTES:
        for line_number, line in enumerate(lines, 1):
            _check_line(line_number, line)
    if len(lines) > LINE_LIMIT:
        found = sum(bool(line) and not line.isspace() for line in lines)
        if found > LINE_LIMIT:
            raise _too_large(f"{found} lines, {LINE_LIMIT} are allowed")
    return lines


def _array_lines(body: bytes) -> list[bytes]:
    """The elements of a JSON array of events."""
    try:
        found = [bytes(each) for each in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(422, "bad_batch", f"the body is not a JSON array of events: {error}") from None
    if len(found) > LINE_LIMIT:
        raise _too_large(f"{len(found)} events, {LINE_LIMIT} are allowed")
    for line_number, each in enumerate(found, 1):
        _check_line(line_number, each)
    return found


def _check_line(line_number: int, line: bytes) -> None:
    if len(line) > LINE_LIMIT_BYTES:
        raise _too_large(f"line {line_number} is {len(line)} bytes")


def _too_large(what: str) -> ProblemError:
    limits = f"The limits are {BODY_LIMIT_BYTES} bytes decoded, {LINE_LIMIT_BYTES} a line, {LINE_LIMIT} lines"
    return ProblemError(413, "too_large", f"{what}. {limits}: send smaller batches")
