"""Reads request bodies up to a limit, before they take memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from pod_worker.control.web.problem import ProblemError

BODY_LIMIT_BYTES = 8 * 1024 * 1024


async def read_body(
    stream: AsyncIterator[bytes], headers: Mapping[str, str], limit_bytes: int = BODY_LIMIT_BYTES
) -> bytes:
    """The body as sent (still compressed). Raises ProblemError 413 as soon as it is too large."""
    check_length(headers.get("content-length", ""), limit_bytes)
    parts: list[bytes] = []
    total = 0
    async for part in stream:
        total += len(part)
        if total > limit_bytes:
            raise body_too_large("the body is longer", limit_bytes)
        parts.append(part)
    return b"".join(parts)


def check_length(length: str, limit_bytes: int) -> None:
    """Compare a Content-Length header with the limit. Raises ProblemError 413."""
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit_bytes):
        raise body_too_large(f"the body is {length[:30]} bytes", limit_bytes)


def body_too_large(what: str, limit_bytes: int) -> ProblemError:
    return ProblemError(413, "too_large", f"{what}: {limit_bytes} bytes are allowed; send smaller requests")
