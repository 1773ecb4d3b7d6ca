"""Who may ask: the control token, one attempt's token, a run's job token, or a client on this machine.

An attempt token writes events, artifacts and metrics of its own run and attempt, and opens nothing else.

A wrong key is refused even where none is needed. Without a key, only a loopback client with a loopback Host may
pass, and a browser only from the same origin, so that no web page can reach a local stack through its visitor.
Keys are compared in constant time and never shown.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from pod_worker.control.web.problem import ProblemError
from pod_worker.core.attempt_token import is_attempt_token, verify

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def job_token(control_token: str, run_id: str) -> str:
    """The key of one run's training job: HMAC-SHA256 of the run id, in hex."""
    return hmac.new(control_token.encode(), run_id.encode(), sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a request speaks for: every run, or one run, or one attempt of it."""

    run_id: str | None = None
    attempt: int | None = None

    def may_write(self, run_id: str | None, attempt: int | None) -> bool:
        """Whether it may speak for that attempt; None is "the current one", which an attempt cannot know."""
        if self.run_id is None:
            return True
        return self.run_id == run_id and self.attempt in (None, attempt)


EVERY_RUN = Caller()


class Authorizer:
    """`token` None means that no key exists: then only loopback clients of an open stack may pass.

    Each method is a FastAPI dependency (async, so that it costs no thread), returns the caller, and raises
    ProblemError 401 or 403. All but `authorize` also take the token of an attempt.
    """

    def __init__(self, token: str | None, open_on_loopback: bool) -> None:
        self._token = token
        self._open_on_loopback = open_on_loopback

    async def authorize(self, request: Request) -> Caller:
        """The control token, or a client on this machine where that is enough."""
        self._check(request, self._token)
        return EVERY_RUN

    async def authorize_events(self, request: Request) -> Caller:
        """For ingest, which compares each line with the caller."""
        return self._attempt_caller(request) or await self.authorize(request)

    async def authorize_job(self, run_id: str, request: Request) -> Caller:
        """For one run's metrics; the run's job token is welcome too."""
        given, is_browser = _credentials(request)
        if given is not None and not is_browser and self._token and _same(given, job_token(self._token, run_id)):
            caller = Caller(run_id)
        else:
            caller = self._run_caller(run_id, request) or await self.authorize(request)
        request.state.caller = caller
        return caller

    async def authorize_artifacts(self, run_id: str, request: Request) -> Caller:
        """For one run's artifacts. An attempt may read all of them, and write its own."""
        caller = self._run_caller(run_id, request)
        if caller is None:
            return await self.authorize(request)
        if request.method not in _SAFE:
            await _check_attempt(caller, run_id, request)
        return caller

    def _run_caller(self, run_id: str, request: Request) -> Caller | None:
        caller = self._attempt_caller(request)
        if caller is not None and caller.run_id != run_id:
            raise _other_attempt()
        return caller

    def _attempt_caller(self, request: Request) -> Caller | None:
        """None: the request carries no attempt token."""
        given, is_browser = _credentials(request)
        if given is None or is_browser or self._token is None or not is_attempt_token(given):
            return None
        claim = verify(self._token, given)
        if claim is None:
            raise _wrong_key()
        return Caller(claim.run_id, claim.attempt)

    def _check(self, request: Request, token: str | None) -> None:
        given, is_browser = _credentials(request)
        if given is None:
            if not (self._open_on_loopback and _is_local(request)):
                raise _unauthenticated(request, token)
        elif token is not None and not _same(given, token):
            raise _wrong_key()
        elif token is None and not (self._open_on_loopback and _is_local(request)):
            raise ProblemError(
                403, "wrong_key", "this control plane has no key: set CONTROL_PLANE_TOKEN where it runs"
            )
        if (given is None or is_browser) and request.method not in _SAFE and not _is_same_origin(request):
            raise ProblemError(403, "cross_origin", "refused: the request was made by a page of another site")


async def _check_attempt(caller: Caller, run_id: str, request: Request) -> None:
    """The attempt that the body names must be the caller's; a download link needs none."""
    try:
        body = await request.json()
    except ValueError:
        raise ProblemError(422, "bad_request", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ProblemError(422, "bad_request", "the body is not a JSON object")
    attempt = body.get("attempt")
    is_read = body.get("action") == "get" and attempt is None
    if not is_read and not (type(attempt) is int and caller.may_write(run_id, attempt)):
        raise _other_attempt()


def _wrong_key() -> ProblemError:
    return ProblemError(403, "wrong_key", "the key is not this control plane's: check CONTROL_PLANE_TOKEN")


def _other_attempt() -> ProblemError:
    return ProblemError(403, "other_attempt", "this token speaks for another run or attempt only")


Authorize = Callable[[Request], Awaitable[Caller]]


def _credentials(request: Request) -> tuple[str | None, bool]:
    """(the key, whether a browser keeps it and sends it by itself)."""
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


def _same(given: str, wanted: str | None) -> bool:
    return wanted is not None and hmac.compare_digest(given.encode(), wanted.encode())


def _unauthenticated(request: Request, token: str | None) -> ProblemError:
    hint = "send Authorization: Bearer with CONTROL_PLANE_TOKEN"
    if token is None:
        hint = "this control plane has no key and answers its own machine only: set CONTROL_PLANE_TOKEN"
    # A browser asks its user for a password when it is told Basic; the password is the token.
    wants_page = "text/html" in request.headers.get("accept", "")
    scheme = 'Basic realm="pod_worker", charset="UTF-8"' if wants_page else 'Bearer realm="pod_worker"'
    return ProblemError(401, "no_key", hint, headers={"WWW-Authenticate": scheme})


def _is_local(request: Request) -> bool:
    """From this machine, and addressed to it by a loopback name: a name of somebody else's that points here
    (DNS rebinding), or a proxy in front, does not count."""
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    return _is_loopback(request.client.host) and _is_loopback(_hostname(request.headers.get("host", "")))


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
    return urlsplit(origin).netloc == request.headers.get("host", "")
