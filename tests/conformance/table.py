"""The table of the 25 checks and their results per client."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.clients import Outcome

CHECKS = {
    1: "get_gpus, get_gpu fields; unknown id is a ValueError",
    2: "create_pod with a GPU gives id and machine.podHostId",
    3: "create with a network volume resolves its data center",
    4: "CPU create (deployCpuPod; cpu{})",
    5: "get_pod: runtime null, then ports; unknown is None",
    6: "stop, resume, terminate, gone",
    7: "no capacity is a QueryError with the exact text",
    8: "bad key is an AuthenticationError; no key, no request",
    9: "a success never carries `errors`",
    10: "networkVolumes of the user; SSH keys round trip",
    11: "command line: pod list, ssh list-keys",
    12: "SSH address found; timeout when the boot stalls",
    13: "pod connect against a real sshd",
    14: "201 create; 204 delete without body or content type",
    15: "v1 list is an array; v2 envelope and pagination",
    16: "unknown key: v1 400, v2 422 that names it",
    17: "illegal action is 409; actions match the status",
    18: "problem+json detail and errors reach QueryError",
    19: "429 is waited out (GET, POST); 503 retried on GET only",
    20: "create-then-500 is found by name; one pod is billed",
    21: "v2: capacity 400 goes on to the next; 422 stops",
    22: "availability without product is 400",
    23: "log SSE: tail, since, resume without loss",
    24: "bill = cost x time; lags; v1 sum = v2 totals",
    25: "v1 and GraphQL off: 410; our client unaffected",
}
_MARKS = {True: "pass", False: "FAIL", None: "not run"}


def report(outcomes: list[Outcome]) -> Iterator[str]:
    """The table's lines: each check, then each client's result."""
    passed = 0
    for check, what in CHECKS.items():
        found = [outcome for outcome in outcomes if outcome.check == check]
        is_passed = bool(found) and all(outcome.passed for outcome in found)
        passed += is_passed
        is_failed = any(outcome.passed is False for outcome in found)
        yield f"{check:2}  {'pass' if is_passed else 'FAIL' if is_failed else 'not run':9}  {what}"
        for outcome in found:
            yield f"      {outcome.client:15} {_MARKS[outcome.passed]:7} {outcome.detail}"
    versions = ", ".join(dict.fromkeys(outcome.client for outcome in outcomes))
    yield f"{passed} of {len(CHECKS)} checks pass ({versions})"
