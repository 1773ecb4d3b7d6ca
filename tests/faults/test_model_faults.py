"""Every fault of a model server at every operation that the pipelines ask: each run ends in the right state.

The list of operations is the scripted model's, and the healthy runs must ask every one of them.
FULL_MATRIX=1 takes all faults, both wires, and faults that begin at the second request.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.llm.cassettes.faults import ModelFault, ModelFaultKind
from pod_worker.llm.scripted.client import REPLIES
from pod_worker.paper import plots
from tests.faults.operation_runs import run_of
from tests.faults.struck_model import StruckModel
from tests.llm.requests_and_answers import WIRES, Stop

K = ModelFaultKind
OPERATIONS = sorted(REPLIES)
WRITES_CODE = {"node.draft", "node.improve", "node.debug", "node.tune", "node.ablate", "plots.write"}
SEARCHES = ("node.", "agent.", "ideation.")  # they go on after a failed call
HARMLESS = {K.PROSE, K.NO_USAGE}  # the answer can be used
# Of a fault that lasts; the others end with LLM_ERROR: no usable answer.
CODES = {
    K.RATE_LIMIT: FailureCode.LLM_RATE_LIMIT,
    K.AUTH: FailureCode.LLM_AUTH,
    K.HANG: FailureCode.NETWORK,
    K.RESET: FailureCode.NETWORK,
}
LISTED = (  # the others are variants of these
    K.RATE_LIMIT, K.SERVER_ERROR, K.HANG, K.RESET, K.TRUNCATED_JSON, K.PROSE, K.NO_TOOL_CALL, K.WRONG_SCHEMA,
    K.EMPTY_CODE, K.CONTENT_FILTER,
)  # fmt: skip
IS_FULL = os.environ.get("FULL_MATRIX") == "1"
FIRSTS = (1, 2) if IS_FULL else (1,)
CELLS = [
    pytest.param(operation, kind, wire, first, id=f"{operation}-{kind}-{wire}-{first}")
    for number, operation in enumerate(OPERATIONS)
    for turn, kind in enumerate(K if IS_FULL else LISTED)
    for wire in (WIRES if IS_FULL else (WIRES[(number + turn) % 2],))
    for first in FIRSTS
]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    result: Any
    code: FailureCode | None
    requests: int
    paid: Counter[str]  # usable answers, by question


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StruckModel]:
    found = StruckModel(tmp_path_factory.mktemp("cassettes"))
    with found.server:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flush to the disk, and no default figures: they need no model, and matplotlib takes a second."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(plots, "draw_figures", lambda results, folder: (folder.mkdir(exist_ok=True), ())[1])


def attempt(model: StruckModel, folder: Path, operation: str, wire: str, *faults: ModelFault) -> Ended:
    stop = Stop()
    client, struck = model.client(folder / "llm", wire, operation, list(faults), stop)
    result, code = None, None
    try:
        result = run_of(operation)(client, folder, stop)
    except RunError as error:
        code = error.code
    finally:
        client.close()
    return Ended(result, code, struck.requests, struck.usable)


_healthy: dict[str, Ended] = {}


@pytest.fixture
def healthy(model: StruckModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of an operation without faults, once for each operation."""

    def found(operation: str) -> Ended:
        if operation not in _healthy:
            folder = tmp_path_factory.mktemp("healthy")
            _healthy[operation] = attempt(model, folder, operation, "openai")
        return _healthy[operation]

    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_healthy_run_asks_the_operation_and_ends(healthy: Any, operation: str) -> None:
    ended = healthy(operation)
    assert ended.code is None
    assert ended.requests >= 1


@pytest.mark.parametrize(("operation", "kind", "wire", "first"), CELLS)
def test_one_fault_changes_nothing_and_no_answer_is_paid_twice(
    model: StruckModel, healthy: Any, tmp_path: Path, operation: str, kind: K, wire: str, first: int
) -> None:
    expected = healthy(operation)
    struck = attempt(model, tmp_path, operation, wire, ModelFault(kind, operation, first))
    paid = struck.paid
    if expected.requests < first:
        assert struck.requests == expected.requests, "the run has no such request"
    elif kind is K.AUTH:
        assert (struck.code, struck.requests) == (FailureCode.LLM_AUTH, first), "no request follows a refused key"
        struck = attempt(model, tmp_path, operation, wire)
        paid = paid + struck.paid
    elif not (kind is K.EMPTY_CODE and operation in WRITES_CODE):
        assert struck.requests == expected.requests + (kind not in HARMLESS)
    assert struck.code is None
    if not (kind is K.EMPTY_CODE and operation.startswith("node.")):  # its next program is another one
        assert struck.result == expected.result
    assert max(paid.values()) == 1


@pytest.mark.parametrize(("operation", "kind", "wire", "first"), CELLS)
def test_a_lasting_fault_ends_in_its_state_within_a_bound_and_a_resume_goes_on(
    model: StruckModel, healthy: Any, tmp_path: Path, operation: str, kind: K, wire: str, first: int
) -> None:
    expected = healthy(operation)
    struck = attempt(model, tmp_path, operation, wire, ModelFault(kind, operation, first, count=0))
    ends = lasting_ends(operation, kind) if first <= expected.requests else {None}
    if first > 1 and operation.startswith(SEARCHES):
        ends = ends | {None}  # too few are left to fail in a row
    assert struck.code in ends
    assert struck.requests <= 3 * (expected.requests + 3), "each question is asked at most three times"
    paid = struck.paid
    if struck.code is not None and struck.code is not FailureCode.MAX_ITERATIONS:
        resumed = attempt(model, tmp_path, operation, wire)
        assert resumed.code is None
        assert operation.startswith(SEARCHES) or resumed.result == expected.result
        paid = paid + resumed.paid
    assert max(paid.values(), default=1) == 1


def lasting_ends(operation: str, kind: K) -> set[FailureCode | None]:
    """None: the run ends well."""
    code = CODES.get(kind, FailureCode.LLM_ERROR)
    if kind in HARMLESS:
        return {None}
    if kind is K.EMPTY_CODE and operation in WRITES_CODE:
        return {FailureCode.MAX_ITERATIONS} if operation == "node.draft" else {None}
    if operation == "review.write" and code is FailureCode.LLM_ERROR:
        return {None}  # stored without a review: the verdict is inconclusive
    if operation in ("node.debug", "node.analyse") and kind is not K.AUTH:
        return {code, None}  # other calls succeed in between, and the stage ends by its iterations
    return {code}
