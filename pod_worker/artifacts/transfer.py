"""Bytes between a file and a presigned URL, in constant memory.

A transfer can be interrupted between blocks.

Responses of the store become named exceptions. A URL is a secret while it is valid, so no exception holds one.
The caller retries.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from pod_worker.core.backoff import is_temporary_status, retry_after_seconds

BLOCK_BYTES = 1024 * 1024
RETRY_AFTER_CAP_SECONDS = 300.0
TIMEOUT_SECONDS = (10.0, 120.0)  # connect; silence while reading or writing
_STALLED = ("RequestTimeout", "IncompleteBody")  # S3 says 400 to a body that came too slowly
_EXPIRED = ("AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", "Request has expired")


class TransientError(Exception):
    """Repeating the request may help.

    It may help after `retry_after` seconds, where the server names them.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UrlExpiredError(Exception):
    """The store no longer accepts the URL: presign again."""


class UploadNotFoundError(Exception):
    """The store does not know the upload or the object."""


class UploadRejectedError(Exception):
    """The store does not accept this upload; repeating it does not help."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file's content, and its size and time, to notice a writer."""

    sha256: str
    bytes: int
    inode: int
    modified_ns: int


def fingerprint(file: BinaryIO, check: Callable[[], None]) -> Fingerprint:
    """Hash an open file from its beginning, in constant memory.

    `check` may raise to stop.
    """
    before = os.fstat(file.fileno())
    hasher, size = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        check()
        hasher.update(block)
        size += len(block)
    return Fingerprint(hasher.hexdigest(), size, before.st_ino, before.st_mtime_ns)


def is_unmodified(file: BinaryIO, known: Fingerprint) -> bool:
    now = os.fstat(file.fileno())
    return (now.st_size, now.st_mtime_ns) == (known.bytes, known.modified_ns)


class FileSlice:
    """A bounded view of a file for `requests` to stream: `length` bytes from `start`.

    A file that shrank meanwhile raises UploadRejectedError: a body shorter than its Content-Length would hang the
    request.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        length: int,
        check: Callable[[], None],
        on_sent: Callable[[int], None] | None = None,
    ) -> None:
        self._on_sent = on_sent
        self._file = file
        self._start = start
        self._length = length
        self._left = length
        self._check = check
        file.seek(start)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        self._check()
        wanted = self._left if size < 0 else min(size, self._left)
        if wanted == 0:
            return b""
        block = self._file.read(wanted)
        if not block:
            raise UploadRejectedError("the file shrank while it was being uploaded")
        self._left -= len(block)
        if self._on_sent is not None:
            self._on_sent(len(block))
        return block

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(BLOCK_BYTES):
            yield block


def put(
    session: requests.Session,
    url: str,
    file: BinaryIO,
    start: int,
    length: int,
    check: Callable[[], None],
    content_type: str | None = None,
    on_sent: Callable[[int], None] | None = None,
) -> str:
    """Upload `length` bytes from `start`; returns the store's etag.

    Raises TransientError, UrlExpiredError, UploadNotFoundError, UploadRejectedError, and what `check` raises.
    """
    # requests would send an empty file-like body as chunked, which S3 refuses.
    body = FileSlice(file, start, length, check, on_sent) if length else b""
    headers = {"Content-Type": content_type} if content_type else {}
    try:
        answer = session.put(url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise TransientError(unreachable(url, error)) from None
    if answer.status_code not in (200, 201, 204):
        raise error_from_response(url, answer)
    return answer.headers.get("ETag", "").strip('"')


def error_from_response(url: str, answer: requests.Response) -> Exception:
    """The error that a response of the store stands for, without the URL in it."""
    status, text = answer.status_code, answer.text[:2000]
    message = f"the object store at {host(url)} answered {status}"
    if is_temporary_status(status) or (status == 400 and any(word in text for word in _STALLED)):
        return TransientError(message, retry_after(answer))
    # rclone says 400 where S3 says 403.
    if status == 403 or (status == 400 and any(word in text for word in _EXPIRED)):
        return UrlExpiredError(f"{message}: the presigned URL was not accepted")
    if status == 404:
        return UploadNotFoundError(message)
    return UploadRejectedError(f"{message}: {_code(text)}")


def retry_after(answer: requests.Response) -> float | None:
    seconds = retry_after_seconds(answer.headers.get("Retry-After"), datetime.now(UTC))
    return None if seconds is None else min(seconds, RETRY_AFTER_CAP_SECONDS)


def unreachable(url: str, error: requests.RequestException) -> str:
    return f"no answer from {host(url)} ({type(error).__name__})"


def host(url: str) -> str:
    return urlsplit(url).netloc.rsplit("@", 1)[-1]


def _code(text: str) -> str:
    _, found, rest = text.partition("<Code>")
    return rest.partition("</Code>")[0][:100] if found else "no reason given"
