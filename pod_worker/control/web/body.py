"""Reads request bodies up to a limit of size and time, before they take memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from pod_worker.control.web.problem import ProblemError

BODY_LIMIT_BYTES = 8 * 1024 * 1024
BODY_SECONDS = 60.0


async def read_body(
    stream: AsyncIterator[bytes],
    headers: Mapping[str, str],
    limit_bytes: int = BODY_LIMIT_BYTES,
    seconds: float = BODY_SECONDS,
) -> bytes:
    """The body as sent (still compressed).

    Raises ProblemError 413 (too large) or 408 (too slow).
    """
    _check_length(headers.get("content-length", ""), limit_bytes)
    parts: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in stream:
                total += len(part)
                if total > limit_bytes:
                    raise _too_large("the body is longer", limit_bytes)
                parts.append(part)
    except TimeoutError:
        raise ProblemError(408, "too_slow", f"the body did not arrive within {seconds:g} s") from None
    return b"".join(parts)


def _check_length(length: str, limit_bytes: int) -> None:
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit_bytes):
        raise _too_large(f"the body is {length[:30]} bytes", limit_bytes)


def _too_large(what: str, limit_bytes: int) -> ProblemError:
    return ProblemError(413, "too_large", f"{what}: {limit_bytes} bytes are allowed; send smaller requests")
