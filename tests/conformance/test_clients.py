"""Clients that this project did not write, and its own, against the fake RunPod: 25 checks over HTTP."""

from __future__ import annotations

import os

import pytest

from tests.conformance.clients import CLIENTS, Outcome
from tests.conformance.table import CHECKS

STRICT = bool(os.environ.get("CONFORMANCE_STRICT"))
CASES = [
    pytest.param((client, check), id=f"{check}-{client.replace(' ', '-')}")
    for client, checks in CLIENTS.items()
    for check in checks
]


@pytest.mark.timeout(900)  # the first check of a client also installs it
@pytest.mark.parametrize("outcome", CASES, indirect=True)
def test_a_client_works_against_the_fake(outcome: Outcome) -> None:
    if outcome.passed is None and not STRICT:
        pytest.skip(outcome.detail)
    assert outcome.passed, f"{CHECKS[outcome.check]}: {outcome.detail}"


def test_every_check_of_the_table_has_a_client() -> None:
    assert {check for checks in CLIENTS.values() for check in checks} == CHECKS.keys()
