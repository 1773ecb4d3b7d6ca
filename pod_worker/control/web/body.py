"""Request bodies with limits: size, gzip that cannot explode, and the cut into lines.

Everything that is too large stops at the limit, before it takes memory or time. What a line means is none of
this module's business.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

from pod_worker.control.web.problem import ProblemError

BODY_LIMIT_BYTES = 8 * 1024 * 1024
LINE_LIMIT_BYTES = 1024 * 1024
LINE_LIMIT = 10_000
_GZIP = 16 + zlib.MAX_WBITS


async def read_body(stream: AsyncIterator[bytes], headers: Mapping[str, str]) -> bytes:
    """The body as sent (still compressed). Raises ProblemError 413 as soon as it is too large."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > BODY_LIMIT_BYTES:
        raise _too_large(f"the body is {length} bytes")
    parts: list[bytes] = []
    total = 0
    async for part in stream:
        total += len(part)
        if total > BODY_LIMIT_BYTES:
            raise _too_large("the body is longer")
        parts.append(part)
    return b"".join(parts)


def decoded(body: bytes, encoding: str) -> bytes:
    """Undo the content encoding. Raises ProblemError 413, 400 or 415."""
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
    """Every member of a gzip body, never more than the limit."""
    parts: list[bytes] = []
    total = 0
    while body:
        member = zlib.decompressobj(_GZIP)
        try:
            part = member.decompress(body, BODY_LIMIT_BYTES - total + 1)
        except zlib.error as error:
            raise ProblemError(400, "bad_gzip", f"the gzip body cannot be read: {error}") from None
        total += len(part)
        if total > BODY_LIMIT_BYTES:
            raise _too_large("the decompressed body is longer")
        if not member.eof:
            raise ProblemError(400, "bad_gzip", "the gzip body ends too early")
        parts.append(part)
        body = member.unused_data
    return b"".join(parts)


def lines_of(body: bytes) -> list[bytes]:
    """Every line, also the blank ones, so that their places are their numbers. Raises ProblemError 413."""
    lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(body) > LINE_LIMIT_BYTES:
        for number, line in enumerate(lines, 1):
            check_line(number, line)
    if len(lines) > LINE_LIMIT:
        found = sum(not is_blank(line) for line in lines)
        if found > LINE_LIMIT:
            raise _too_large(f"{found} lines, {LINE_LIMIT} are allowed")
    return lines


def is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def check_line(number: int, line: bytes) -> None:
    """Raises ProblemError 413."""
    if len(line) > LINE_LIMIT_BYTES:
        raise _too_large(f"line {number} is {len(line)} bytes")


def _too_large(what: str) -> ProblemError:
    advice = f"The limits are {BODY_LIMIT_BYTES} bytes decoded, {LINE_LIMIT_BYTES} a line, {LINE_LIMIT} lines"
    return ProblemError(413, "too_large", f"{what}. {advice}: send smaller batches")
