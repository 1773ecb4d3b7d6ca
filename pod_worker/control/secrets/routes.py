"""The routes of sealed secrets: the public key, and the values of one attempt.

Values leave in one response to the worker that holds the run's lease. The token of an attempt is refused: user
code has one. Nothing is written, and no value is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter, Depends, Response

from pod_worker.control.artifacts.access import fenced
from pod_worker.control.web.problem import ProblemError
from pod_worker.core.lease import Fence
from pod_worker.sealing import PrivateKey, SealError, open_sealed
from pod_worker.store import run_secrets
from pod_worker.store.mongo import Mongo

NO_STORE = "no-store"  # Cache-Control


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsRequest:
    attempt: int
    lease_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeyView:
    public_key: str


def router(database: Mongo, key: PrivateKey | None, authorize: Callable[..., object]) -> APIRouter:
    """Both routes, for `app.include_router`.

    `authorize` raises when the caller may not. Without a key both routes refuse.
    """
    made = APIRouter(tags=["secrets"], dependencies=[Depends(authorize)])

    @made.get("/api/secrets/public-key")
    def public_key() -> PublicKeyView:
        return PublicKeyView(public_key=_required(key).public)

    @made.post("/api/runs/{run_id}/secrets")
    def values(run_id: str, body: SecretsRequest, response: Response) -> dict[str, str]:
        response.headers["Cache-Control"] = NO_STORE
        sealed = run_secrets.of_attempt(database, Fence(run_id, body.attempt, body.lease_token))
        if sealed is None:
            raise fenced(run_id)
        return _opened(_required(key), sealed) if sealed else {}

    return made


def _opened(key: PrivateKey, sealed: dict[str, str]) -> dict[str, str]:
    try:
        return {name: open_sealed(key, name, text) for name, text in sealed.items()}
    except SealError as error:
        raise ProblemError(409, "sealed_for_another_key", str(error)) from None


def _required(key: PrivateKey | None) -> PrivateKey:
    if key is None:
        raise ProblemError(
            409,
            "no_sealing_key",
            "this control plane has no key for secrets: set ENCRYPTION_KEY to a random value where it runs "
            "(openssl rand -hex 32), and start it again",
        )
    return key
