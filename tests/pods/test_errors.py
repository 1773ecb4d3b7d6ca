"""Texts seen from RunPod, and the class that each must become."""

from __future__ import annotations

import pytest

from pod_worker.pods.json_view import JsonObject, parse_time
from pod_worker.pods.pod import STATUS_WORDS, PodStatus, status_of
from pod_worker.pods.runpod.graphql import error_from
from pod_worker.pods.runpod.legacy_wire import cuda_versions_from, legacy_error


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (500, "create pod: There are no instances currently available", "NoCapacityError"),
        (
            500,
            "This machine does not have the resources to deploy your pod. Please try a different machine.",
            "NoCapacityError",
        ),
        (500, "There are not enough free GPUs on the host machine to start this pod.", "NoCapacityError"),
        (500, "something broke", "ServerError"),
        (502, "<html>Bad gateway</html>", "ServerError"),
        (400, 'key "gpuTypeIDs" not in input schema', "InvalidRequestError"),
        (401, "unauthorized", "UnauthorizedError"),
        (402, "pay", "InsufficientBalanceError"),
        (403, "no", "ForbiddenError"),
        (404, "pod not found", "PodNotFoundError"),
        (409, "state", "StateConflictError"),
        (410, "gone", "ApiRetiredError"),
        (418, "teapot", "InvalidRequestError"),
        (429, "slow", "RateLimitedError"),
        (500, "insufficient funds", "InsufficientBalanceError"),
    ],
)
def test_rest_v1(status: int, message: str, kind: str) -> None:
    error = legacy_error(status, message, "POST /v1/pods")
    assert type(error).__name__ == kind
    assert message in str(error)


NO_LONGER = "There are no longer any instances available with"


@pytest.mark.parametrize(
    ("status", "message", "code", "kind"),
    [
        (
            200,
            f"{NO_LONGER} the requested specifications. Please refresh and try again.",
            "RUNPOD",
            "NoCapacityError",
        ),
        (200, f"{NO_LONGER} enough disk space.", "RUNPOD", "NoCapacityError"),
        (
            200,
            "There are not enough free GPUs on the host machine to start this pod.",
            "RUNPOD",
            "NoCapacityError",
        ),
        (200, "Something went wrong. Please try again later or contact support.", "RUNPOD", "ServerError"),
        (200, "internal server error", "RUNPOD", "ServerError"),
        (200, "pod not found to terminate", "RUNPOD", "PodNotFoundError"),
        (200, "network volume is not in this data center", "RUNPOD", "RequestRejectedError"),
        (200, "no idea", "INTERNAL_SERVER_ERROR", "ServerError"),
        (200, "bad enum", "BAD_USER_INPUT", "InvalidRequestError"),
        (400, "Cannot query field", "", "InvalidRequestError"),
        (200, "who are you", "UNAUTHENTICATED", "UnauthorizedError"),
        (403, "no", "", "ForbiddenError"),
        (500, "no", "", "ServerError"),
    ],
)
def test_graphql(status: int, message: str, code: str, kind: str) -> None:
    error = error_from(JsonObject({"message": message, "extensions": {"code": code}}), status)
    assert type(error).__name__ == kind


def test_every_word_for_a_status_is_known_and_the_rest_is_unrecognised() -> None:
    assert set(STATUS_WORDS.values()) == set(PodStatus) - {PodStatus.UNRECOGNISED}
    assert status_of(" running ") is PodStatus.RUNNING
    for word in ("", "SLEEPING", "RUNNING2"):
        assert status_of(word) is PodStatus.UNRECOGNISED


@pytest.mark.parametrize(
    ("minimum", "first", "count"),
    [("12.4", "12.4", 7), ("12.10", "13.0", 1), ("13.1", "13.1", 1), ("11.8", "11.8", 12)],
)
def test_cuda_versions_compare_as_numbers(minimum: str, first: str, count: int) -> None:
    found = cuda_versions_from(minimum)
    assert (found[0], len(found)) == (first, count)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05.678+02:00", "2026-01-02T01:04:05.678000+00:00"),
        ("2024-07-12 19:14:40.144 +0000 UTC", "2024-07-12T19:14:40.144000+00:00"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00"),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_in_all_their_forms(text: str, iso: str | None) -> None:
    moment = parse_time(text)
    assert (moment.isoformat() if moment else None) == iso


def test_a_document_never_trips_over_odd_values() -> None:
    json_object = JsonObject(
        {"n": "1.5", "b": True, "t": 7, "nan": float("nan"), "list": [1, {"a": 1}, "x"], "d": "x"}
    )
    assert (
        json_object.number("n"),
        json_object.number("b"),
        json_object.text("t"),
        json_object.integer("nan"),
    ) == (1.5, None, "", None)
    assert len(json_object.documents("list")) == 3
    assert json_object.texts("list") == ("x",)
    assert not json_object.document("d")
    assert not JsonObject([1])
