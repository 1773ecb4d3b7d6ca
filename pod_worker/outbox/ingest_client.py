"""One request to ingest, and the meaning of its answer for each line.

It sends and reads; it never retries.

Only an answer that has ingest's own form counts as an acknowledgement: a proxy's login page with status 200
does not. No message contains the token, or a password in the URL.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import requests
import urllib3

from pod_worker.core.backoff import retry_after_seconds
from pod_worker.core.clock import Clock
from pod_worker.core.credentials.bearer import BearerAuth

_TIMEOUT_SECONDS = (5.0, 30.0)  # connect, read
_DETAIL_LIMIT = 500
# Codes of a line's rejection that mean "not now" rather than "never".
TRANSIENT_CODES = frozenset(
    {"transient", "retry", "unavailable", "internal", "timeout", "storage", "rate_limited", "overloaded"}
)
_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_CONTENT_STATUSES = frozenset({400, 413, 415, 422})
_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>:? ?")


@dataclass(frozen=True, slots=True)
class LineRejection:
    code: str
    error: str


@dataclass(frozen=True, slots=True)
class BatchAccepted:
    """Stored by ingest, except the lines that it rejected or deferred.

    These are given by their position in the request.
    """

    rejected: dict[int, LineRejection] = field(default_factory=dict)
    deferred: frozenset[int] = frozenset()
    duplicates: int = 0
    fenced: int = 0


@dataclass(frozen=True, slots=True)
class BatchRejected:
    """Ingest rejected the request for its content: some line in it is poison."""

    rejection: LineRejection


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing was acknowledged; the same request may succeed later."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """Nothing is acknowledged until a person changes a setting; `reason` says which."""

    reason: str


SendResult: TypeAlias = BatchAccepted | BatchRejected | Unavailable | Misconfigured


class _LineError(msgspec.Struct):
    line: int | None = None
    event_id: str | None = None
    code: str | None = None
    error: Any = None
    transient: bool | None = None


class _Counts(msgspec.Struct):
    accepted: int
    duplicates: int = 0
    fenced: int = 0
    errors: list[_LineError] = []


class _IdOnly(msgspec.Struct):
    id: str


class IngestClient:
    """POSTs NDJSON batches to `<url>/api/ingest/events`.

    It uses one kept-alive connection, for one thread.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"CONTROL_PLANE_URL must begin with http:// or https://, not {_shown(url)!r}")
        self._url = url.rstrip("/") + "/api/ingest/events"
        self.endpoint = _shown(self._url)
        self._clock = clock
        self._session = requests.Session()
        self._session.headers.update({"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"})

    def send(self, lines: Sequence[bytes], token: str | None) -> SendResult:
        """One request under `token`.

        `lines` end in newlines. No setting, network or server makes it raise.
        """
        body = gzip.compress(b"".join(lines), compresslevel=1, mtime=0)
        try:
            # A redirect would turn the POST into a GET whose 200 acknowledges nothing.
            response = self._session.post(
                self._url, data=body, auth=BearerAuth(token), timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except (ValueError, TypeError) as error:  # a header or URL that cannot be sent; its text may hold secrets
            return Misconfigured(
                f"no request to {self.endpoint} can be made ({type(error).__name__}); events are kept. "
                "Check CONTROL_PLANE_URL, CONTROL_PLANE_TOKEN and the proxy settings."
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return Unavailable(f"no answer from {self.endpoint} ({_reason(error)})"[:_DETAIL_LIMIT])
        return self._read(response, lines)

    def close(self) -> None:
        self._session.close()

    def _read(self, response: requests.Response, lines: Sequence[bytes]) -> SendResult:
        status = response.status_code
        if status in (200, 201, 202, 207):
            return self._read_counts(response, lines)
        detail = f"HTTP {status}: {response.text[:_DETAIL_LIMIT]}"
        if status >= 500 or status in _TRANSIENT_STATUSES:
            asked = retry_after_seconds(response.headers.get("Retry-After"), self._clock.now())
            return Unavailable(detail, asked)
        if status in _CONTENT_STATUSES:
            return BatchRejected(LineRejection(str(status), detail))
        return Misconfigured(_configuration_hint(status, self.endpoint, response.headers.get("Location")))

    def _read_counts(self, response: requests.Response, lines: Sequence[bytes]) -> SendResult:
        try:
            counts = msgspec.json.decode(response.content, type=_Counts)
        except msgspec.MsgspecError:
            return Misconfigured(
                f"{self.endpoint} answered {response.status_code} but not as ingest does; events are kept. "
                "Set CONTROL_PLANE_URL to the control plane itself, not to a proxy's page."
            )
        rejected: dict[int, LineRejection] = {}
        deferred: set[int] = set()
        for index, error in _by_position(counts.errors, lines):
            if error.transient or (error.transient is None and error.code in TRANSIENT_CODES):
                deferred.add(index)
            else:
                rejected[index] = LineRejection(error.code or "invalid", _text(error.error))
        return BatchAccepted(rejected, frozenset(deferred), counts.duplicates, counts.fenced)


def _by_position(errors: list[_LineError], lines: Sequence[bytes]) -> list[tuple[int, _LineError]]:
    """Each error with its line's position.

    By event id where given, else by the 1-based line number.
    """
    if not errors:
        return []
    positions = {_id_of(line): index for index, line in enumerate(lines)}
    found = []
    for error in errors:
        index = positions.get(error.event_id, -1) if error.event_id else (error.line or 0) - 1
        if 0 <= index < len(lines):
            found.append((index, error))
    return found


def _id_of(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_IdOnly).id
    except msgspec.MsgspecError:  # a damaged line; ingest rejects it by line number
        return ""


def _text(error: Any) -> str:
    text = error if isinstance(error, str) else msgspec.json.encode(error).decode()
    return text[:_DETAIL_LIMIT]


def _configuration_hint(status: int, endpoint: str, location: str | None) -> str:
    if status in (401, 403):
        return f"{endpoint} refuses the token (HTTP {status}); events are kept. Set a valid CONTROL_PLANE_TOKEN."
    if 300 <= status < 400:
        return f"{endpoint} redirects to {location}; events are kept. Set CONTROL_PLANE_URL to where it points."
    return f"{endpoint} answers HTTP {status}; events are kept. Check CONTROL_PLANE_URL and the control plane."


def _reason(error: Exception) -> str:
    """The innermost cause, without the object addresses that urllib3 puts into it."""
    inner = error.args[0] if error.args else None
    cause = _OBJECT.sub("", str(getattr(inner, "reason", None) or ""))
    return f"{type(error).__name__}: {cause}" if cause else type(error).__name__


def _shown(url: str) -> str:
    """The URL without a user name and password."""
    scheme, found, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{found}{authority.rpartition('@')[2]}{slash}{path}" if found else url.rpartition("@")[2]
