"""A bearer token for one attempt of one run, made from the control plane's.

The token names its run and attempt and carries an HMAC-SHA256 over both, so the control plane verifies it without
a database. It holds no secret of the fleet: the process of a run may have it. It ends with its attempt, because
every write of an attempt that is not the current one is fenced.

Form: `pwa1.<attempt>.<base64url(run id)>.<hex digest>`. Only this form and version is accepted.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

PREFIX = "pwa1."
LENGTH_LIMIT = 4096  # a run id has at most 200 characters
_KEY_LABEL = b"pod_worker attempt token 1\0"


@dataclass(frozen=True, slots=True)
class AttemptClaim:
    """The run and attempt that a valid token speaks for."""

    run_id: str
    attempt: int


def mint(secret: str, run_id: str, attempt: int) -> str:
    """The token of that attempt.

    Raises ValueError when `secret` is empty or `attempt` is not positive.
    """
    if not secret or attempt < 1:
        raise ValueError("an attempt token needs a secret and an attempt of at least 1")
    payload = f"{PREFIX}{attempt}.{_encoded(run_id)}"
    return f"{payload}.{_digest(secret, payload)}"


def is_attempt_token(token: str) -> bool:
    """Whether it has the form of an attempt token. Says nothing about its validity."""
    return token.startswith(PREFIX)


def verify(secret: str, token: str) -> AttemptClaim | None:
    """What the token speaks for; None when `mint` did not make it with this secret."""
    return _verify(secret, token) if len(token) <= LENGTH_LIMIT else None


@lru_cache(maxsize=256)  # a shipper shows the same token with every batch
def _verify(secret: str, token: str) -> AttemptClaim | None:
    payload, _, digest = token.rpartition(".")
    if not secret or not is_attempt_token(payload) or not token.isascii():
        return None
    if not hmac.compare_digest(digest, _digest(secret, payload)):
        return None
    attempt, _, run_id = payload.removeprefix(PREFIX).partition(".")
    return AttemptClaim(_decoded(run_id), int(attempt))


def _digest(secret: str, payload: str) -> str:
    # A key of its own: a training job's token is an HMAC of the run id under the secret itself.
    key = sha256(_KEY_LABEL + secret.encode()).digest()
    return hmac.digest(key, payload.encode(), "sha256").hex()  # one call: every batch of a run is checked


def _encoded(run_id: str) -> str:
    return base64.urlsafe_b64encode(run_id.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


def _decoded(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
