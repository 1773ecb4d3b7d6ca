"""Who sent a request: an operator, an attempt, a job, or a local client.

An operator has the control token, an attempt and a job tokens of their own; a local client is on this machine.

A wrong key is refused even where none is needed. Without a key only a loopback client of an open stack passes. Its
Host must be a loopback name, it must not come through a proxy, and a browser must be on the same origin. So no web
page and no other machine reaches a local stack. Keys are compared in constant time and never shown.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.protocol import PEER_UID
from pod_worker.core.credentials.attempt_token import is_attempt_token, verify

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_INGEST = frozenset({"/api/ingest/event", "/api/ingest/events"})
_ARTIFACTS = re.compile(r"/api/runs/([^/]+)/artifacts(/(presign|finalize|abort))?")
_WORKDIR = re.compile(r"/api/runs/([^/]+)/(?:workdir|data)")
_METRICS = re.compile(r"/api/training/jobs/([^/]+)/metrics")
# Headers that proxies add.
_PROXY_HEADERS = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-host",
        "x-envoy-external-address",
        "true-client-ip",
        "cf-connecting-ip",
        "cf-ray",
        "cdn-loop",
    }
)


def job_token(control_token: str, run_id: str) -> str:
    """The key of one run's training job: HMAC-SHA256 of the run id, in hex."""
    return hmac.new(control_token.encode(), run_id.encode("utf-8", "replace"), sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request speaks for: every run, or one run, or one attempt of it."""

    run_id: str | None = None
    attempt: int | None = None

    def may_write(self, run_id: str | None, attempt: int | None) -> bool:
        """Whether it may write for that attempt.

        None is "the current one", which no attempt may write for.
        """
        if self.run_id is None:
            return True
        return self.run_id == run_id and self.attempt in (None, attempt)

    def may_call(self, method: str, path: str) -> bool:
        """Whether the route is open to it.

        A job may post metrics. An attempt also has events, artifacts, its run's workdir, and data sets.
        """
        if self.run_id is None:
            return True
        if found := _METRICS.fullmatch(path):
            return found[1] == self.run_id
        if self.attempt is None:
            return False
        if found := _ARTIFACTS.fullmatch(path):
            return found[1] == self.run_id
        if found := _WORKDIR.fullmatch(path):
            return method == "GET" and found[1] == self.run_id
        return method == "POST" and path in _INGEST


EVERY_RUN = Caller()


class Authorizer:
    """Knows the keys.

    `token` is CONTROL_PLANE_TOKEN; None means that no key exists. Raises ValueError for an empty one.
    """

    def __init__(self, token: str | None, open_on_loopback: bool) -> None:
        if token is not None and not token.strip():
            raise ValueError("CONTROL_PLANE_TOKEN is empty: set a value, or remove it")
        self._token = token
        self._open_on_loopback = open_on_loopback

    def authorize(self, request: Request) -> Caller:
        """The caller of a request. Raises ProblemError 401 or 403."""
        given, is_browser = _credentials(request)
        caller = self._authenticate(request, given, is_browser)
        is_ambient = given is None or is_browser  # sent by any page that a browser shows
        if is_ambient and request.method not in SAFE_METHODS and not _is_same_origin(request):
            raise ProblemError(403, "cross_origin", "refused: a page of another site made the request")
        if not caller.may_call(request.method, request.scope["path"]):
            raise other_attempt()
        return caller

    def _authenticate(self, request: Request, given: str | None, is_browser: bool) -> Caller:
        is_open = self._open_on_loopback and (given is None or self._token is None) and _is_local(request)
        if given is None:
            if is_open:
                return EVERY_RUN
            raise _unauthenticated(request, self._token)
        if self._token is None:
            if is_open:
                return EVERY_RUN
            raise ProblemError(
                403, "wrong_key", "this control plane has no key: set CONTROL_PLANE_TOKEN where it runs"
            )
        if _same(given, self._token):
            return EVERY_RUN
        caller = None if is_browser else self._scoped_caller(given, request.scope["path"])
        if caller is None:
            raise ProblemError(403, "wrong_key", "the key is not this control plane's: check CONTROL_PLANE_TOKEN")
        return caller

    def _scoped_caller(self, given: str, path: str) -> Caller | None:
        """The caller of an attempt's or a job's token; None for any other key."""
        assert self._token is not None
        if is_attempt_token(given):
            claim = verify(self._token, given)
            return Caller(claim.run_id, claim.attempt) if claim else None
        found = _METRICS.fullmatch(path)
        return Caller(found[1]) if found and _same(given, job_token(self._token, found[1])) else None


def other_attempt() -> ProblemError:
    return ProblemError(403, "other_attempt", "this token speaks for one run or attempt only")


def _credentials(request: Request) -> tuple[str | None, bool]:
    """(the key, whether a browser keeps it and adds it to each request)."""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "":
            return None, False
        case "bearer":
            return rest.strip(), False
        case "basic":
            return _password(rest), True
        case _:
            return "", False


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _unauthenticated(request: Request, token: str | None) -> ProblemError:
    hint = "send Authorization: Bearer with CONTROL_PLANE_TOKEN"
    if token is None:
        hint = "this control plane has no key and serves its own machine only: set CONTROL_PLANE_TOKEN"
    # A browser asks its user for a password when the scheme is Basic; the password is the token.
    wants_page = "text/html" in request.headers.get("accept", "")
    scheme = 'Basic realm="pod_worker", charset="UTF-8"' if wants_page else 'Bearer realm="pod_worker"'
    return ProblemError(401, "no_key", hint, headers={"WWW-Authenticate": scheme})


def _is_local(request: Request) -> bool:
    """Whether a client on this machine came by a loopback name, without a proxy.

    A foreign name that resolves to loopback (DNS rebinding) does not count. Proxies are known by their headers, by
    HTTP/1.0, which nginx speaks to its upstream by default and no browser speaks, and by the user they run as.
    """
    if request.client is None or request.scope.get("http_version") == "1.0":
        return False
    if any(name in _PROXY_HEADERS or name.startswith("x-forwarded-") for name in request.headers):
        return False
    if not (_is_loopback(request.client.host) and _is_loopback(_hostname(request.headers.get("host", "")))):
        return False
    find_uid = request.scope.get("state", {}).get(PEER_UID)
    return find_uid is None or find_uid() in (None, os.geteuid())


@lru_cache(maxsize=128)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 client of an IPv6 socket
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


@lru_cache(maxsize=128)
def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same_origin(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    try:
        return urlsplit(origin).netloc == request.headers.get("host", "")
    except ValueError:
        return False
