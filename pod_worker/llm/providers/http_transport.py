"""One POST of JSON to a provider, and the failure code of every error.

No message contains the key, the password of a URL, or what a server says about a refused key.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from pod_worker.core.backoff import retry_after_seconds
from pod_worker.core.clock import Clock
from pod_worker.core.credentials.secret import MASK, Redactor, Secret, has_credentials
from pod_worker.core.failure import FailureCode, truncate
from pod_worker.core.run import Json
from pod_worker.llm.wire import OPERATION_HEADER, SAMPLE_HEADER, Billing, WireAnswer, WireError, WireRequest

CONNECT_SECONDS = 10.0
ANSWER_LIMIT_BYTES = 64 * 2**20
_DETAIL_LIMIT = 400
_CONNECTIONS = 32
# Providers quote a part of a refused key in their messages.
_KEY_SHAPE = re.compile(r"\b(sk|pk|key|xai|gsk)-[\w*.-]{6,}", re.IGNORECASE)
# 402: the account has no credit.
_AUTH = frozenset({401, 402, 403})
_NOT_NOW = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529})

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is, and the names of its settings for messages."""

    provider: str
    base_url: str
    key_setting: str
    url_setting: str

    @property
    def shown(self) -> str:
        """The URL without a user name and password."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class HttpTransport:
    """Keeps connections open; safe for several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        key: Secret | None,
        auth: Auth,
        *,
        timeout_seconds: float,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        check_url(endpoint)
        self._endpoint = endpoint
        self._redact = Redactor([key.reveal()] if key else [])
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._session = requests.Session()
        self._session.auth = auth
        self._session.headers.update(headers or {})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=2, pool_maxsize=_CONNECTIONS))

    def ask(
        self,
        path: str,
        request: WireRequest,
        body: Mapping[str, Json],
        decode: Callable[[dict[str, Any]], WireAnswer | None],
        malformed: str,
    ) -> WireAnswer:
        """Post `body` and decode the answer.

        Raises WireError, with the text `malformed` where `decode` finds less than the API promises.
        """
        headers = {OPERATION_HEADER: request.operation, SAMPLE_HEADER: str(request.sample)}
        answer = decode(self.post(path, body, headers))
        if answer is None:
            raise self._error(FailureCode.LLM_ERROR, malformed, is_transient=True, billing=Billing.UNKNOWN)
        return answer

    def post(self, path: str, body: Mapping[str, Json], headers: Mapping[str, str]) -> dict[str, Any]:
        """The decoded JSON object of a 200 answer. Raises WireError."""
        url = self._endpoint.base_url.rstrip("/") + path
        deadline = time.monotonic() + self._timeout_seconds
        timeout = (min(CONNECT_SECONDS, self._timeout_seconds), self._timeout_seconds)
        try:
            with self._session.post(
                url, json=body, headers=dict(headers), timeout=timeout, stream=True, allow_redirects=False
            ) as response:
                content = _read_body(response, deadline)
        except (ValueError, TypeError, requests.exceptions.InvalidJSONError) as error:  # a URL, header or body
            raise self._error(
                FailureCode.INVALID_INPUT,
                f"cannot be sent this request ({type(error).__name__}). Check {self._endpoint.url_setting}.",
            ) from None
        except (requests.ConnectTimeout, requests.ConnectionError) as error:
            raise self._no_answer(error, _was_sent(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._no_answer(error, was_sent=True) from None
        if response.status_code != 200:
            raise self._refusal(response, content)
        return self._decode(content)

    def close(self) -> None:
        self._session.close()

    def _decode(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._error(
                FailureCode.LLM_ERROR,
                "answered with something that is no JSON object",
                is_transient=True,
                billing=Billing.UNKNOWN,
            )
        return answer

    def _no_answer(self, error: Exception, was_sent: bool) -> WireError:
        reason = "did not answer in time" if _is_timeout(error) else f"cannot be reached ({_reason(error)})"
        return self._error(
            FailureCode.NETWORK,
            f"{reason}. Check the network and {self._endpoint.url_setting}.",
            is_transient=True,
            billing=Billing.UNKNOWN if was_sent else Billing.NOTHING,
        )

    def _refusal(self, response: requests.Response, content: bytes) -> WireError:
        status, setting = response.status_code, self._endpoint
        detail = _detail(content)
        if status in _AUTH:
            return self._error(
                FailureCode.LLM_AUTH, f"refuses the key (HTTP {status}). Set a valid {setting.key_setting}."
            )
        if status == 429:
            asked = retry_after_seconds(response.headers.get("Retry-After"), self._clock.now())
            is_spent = "insufficient_quota" in detail or "credit balance" in detail
            return self._error(
                FailureCode.LLM_RATE_LIMIT,
                f"limits the rate (HTTP 429): {detail}",
                is_transient=not is_spent,
                retry_after_seconds=asked,
            )
        if status >= 500 or status in _NOT_NOW:
            asked = retry_after_seconds(response.headers.get("Retry-After"), self._clock.now())
            return self._error(
                FailureCode.LLM_ERROR,
                f"failed (HTTP {status}): {detail}",
                is_transient=True,
                retry_after_seconds=asked,
            )
        fix = f"Check the model's name and {setting.url_setting}."
        if 300 <= status < 400:
            fix = f"It redirects; set {setting.url_setting} to where it points."
        return self._error(FailureCode.INVALID_INPUT, f"rejects the request (HTTP {status}): {detail}. {fix}")

    def _error(
        self,
        code: FailureCode,
        what: str,
        *,
        is_transient: bool = False,
        billing: Billing = Billing.NOTHING,
        retry_after_seconds: float | None = None,
    ) -> WireError:
        text = _KEY_SHAPE.sub(MASK, self._redact(f"{self._endpoint.provider} at {self._endpoint.shown} {what}"))
        return WireError(
            code, text, is_transient=is_transient, billing=billing, retry_after_seconds=retry_after_seconds
        )


def check_url(endpoint: Endpoint) -> None:
    """Raises WireError(INVALID_INPUT)."""
    url, setting = endpoint.base_url, endpoint.url_setting
    if not url.startswith(("http://", "https://")) or not urlsplit(url).netloc:
        raise WireError(
            FailureCode.INVALID_INPUT, f"{setting} must begin with http:// or https:// and name a host"
        )
    if has_credentials(url):
        raise WireError(
            FailureCode.INVALID_INPUT,
            f"{setting} must not hold a user or a password; set {endpoint.key_setting} instead",
        )


def _read_body(response: requests.Response, deadline: float) -> bytes:
    """The body, within the size limit and the deadline of the whole request."""
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(64 * 1024):
        size += len(part)
        if size > ANSWER_LIMIT_BYTES:
            raise requests.RequestException(f"the answer is larger than {ANSWER_LIMIT_BYTES} bytes")
        if time.monotonic() > deadline:
            raise requests.Timeout("the answer took too long")
        parts.append(part)
    return b"".join(parts)


def _was_sent(error: Exception) -> bool:
    """Whether the request may have reached the server.

    A connection that was never made sent nothing.
    """
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    not_made = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    return not isinstance(error, requests.ConnectTimeout) and not isinstance(reason, not_made)


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, requests.Timeout) or "timed out" in str(error).lower()


def _reason(error: Exception) -> str:
    """The class of the innermost cause; its text may hold the URL."""
    inner = error.args[0] if error.args else None
    cause = getattr(inner, "reason", None) or inner
    return type(cause).__name__ if isinstance(cause, Exception) else type(error).__name__


def _detail(content: bytes) -> str:
    """The server's own message, of an error body in either provider's form."""
    try:
        body = json.loads(content)
        error = body.get("error", body)
        found = (error.get("message") or error.get("code") or "") if isinstance(error, dict) else error
        kind = error.get("code") or error.get("type") or "" if isinstance(error, dict) else ""
        text = f"{found} [{kind}]" if kind else str(found)
    except (ValueError, AttributeError, RecursionError):
        text = content.decode(errors="replace")
    return truncate(" ".join(text.split()), _DETAIL_LIMIT) or "without a message"
