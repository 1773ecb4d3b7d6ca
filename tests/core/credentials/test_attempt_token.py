"""Attempt tokens: one run, one attempt, one secret, one version."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.credentials.attempt_token import PREFIX, AttemptClaim, is_attempt_token, mint, verify

SECRET = "the control plane's token"


@given(st.text(min_size=1), st.text(), st.integers(1, 10**8))
def test_a_minted_token_verifies_to_its_run_and_attempt(secret: str, run_id: str, attempt: int) -> None:
    token = mint(secret, run_id, attempt)
    assert verify(secret, token) == AttemptClaim(run_id, attempt)
    assert is_attempt_token(token)
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token


def test_known_token() -> None:
    """Fixed for good: workers and control planes of different releases must agree."""
    assert mint("secret", "run/1", 2) == (
        "pwa1.2.cnVuLzE.f53419d071413e219f613f0dd93bbe0fdfe35b75dd887c0aa592ae8d6141999a"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token.replace(".2.", ".3."),
        lambda token: token.replace(".2.", ".02."),
        lambda token: token.replace("cnVuLzE", "cnVuLzI"),
        lambda token: token.replace("cnVuLzE", "cnVuLzE="),
        lambda token: token.replace("pwa1", "pwa2"),
        lambda token: token[:-1],
        lambda token: token + "0",
        lambda token: token.upper(),
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token[:-1] + "é",
        lambda token: "",
        lambda token: PREFIX,
    ],
)
def test_any_other_text_is_refused(change: object) -> None:
    token = mint(SECRET, "run/1", 2)
    assert callable(change)
    assert change(token) != token
    assert verify(SECRET, change(token)) is None
    assert verify("another", token) is None


def test_without_a_secret_nothing_is_minted_or_accepted() -> None:
    with pytest.raises(ValueError, match="secret"):
        mint("", "r1", 1)
    with pytest.raises(ValueError, match="attempt"):
        mint(SECRET, "r1", 0)
    payload = "pwa1.1.cjE"
    for key in (b"", hashlib.sha256(b"pod_worker attempt token 1\0").digest()):
        assert verify("", f"{payload}.{hmac.new(key, payload.encode(), hashlib.sha256).hexdigest()}") is None


def test_a_training_jobs_token_is_never_an_attempt_token() -> None:
    """The job token is HMAC(secret, run id): a run with a crafted id must not mint tokens of other runs."""
    payload = "pwa1.1.cjE"
    job_token = hmac.new(SECRET.encode(), payload.encode(), hashlib.sha256).hexdigest()
    assert verify(SECRET, f"{payload}.{job_token}") is None
