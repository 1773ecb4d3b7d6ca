"""One table of errors and exit codes: every name in it exists, and the most specific one decides."""

from __future__ import annotations

import importlib

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from pod_worker.cli.exit_codes import EXIT_CODES, ExitCode, exit_code_for
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.pods.errors import PodNotFoundError, RateLimitedError, UnauthorizedError


@pytest.mark.parametrize("name", EXIT_CODES)
def test_every_listed_error_exists(name: str) -> None:
    module, _, error = name.rpartition(".")
    found = getattr(importlib.import_module(module), error)
    assert f"{found.__module__}.{found.__qualname__}" == name
    assert issubclass(found, Exception)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunError(FailureCode.INVALID_INPUT, "x"), ExitCode.USAGE),
        (RunError(FailureCode.NETWORK, "x"), ExitCode.FAILED),
        (AutoReconnect("x"), ExitCode.TEMPORARY),
        (OperationFailure("x"), ExitCode.FAILED),
        (UnauthorizedError("x"), ExitCode.AUTH),
        (PodNotFoundError("x"), ExitCode.NOT_FOUND),
        (RateLimitedError("x", wait_seconds=1), ExitCode.TEMPORARY),
        (KeyError("x"), ExitCode.FAILED),
    ],
)
def test_the_most_specific_class_decides(error: Exception, code: ExitCode) -> None:
    assert exit_code_for(error)[0] is code


def test_an_outage_is_one_sentence_without_the_drivers_dump() -> None:
    dump = (
        "127.0.0.1:1: [Errno 111] Connection refused (configured timeouts: socketTimeoutMS: 20000.0ms, "
        "connectTimeoutMS: 5000.0ms), Timeout: 5.0s, Topology Description: <TopologyDescription id: 1, servers: []>"
    )
    text = exit_code_for(ServerSelectionTimeoutError(dump))[1]
    assert "127.0.0.1:1: [Errno 111] Connection refused" in text
    assert "Check that it is up" in text
    assert "Topology" not in text
    assert "configured" not in text
