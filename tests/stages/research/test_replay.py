"""The best programs of a run again: equal scores, or the reason why they are not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.sandbox.client import SandboxClient
from pod_worker.stages.research.params import parse
from pod_worker.stages.research.replay import ReplayedScore, SearchReplay, read_recorded
from tests.sandbox.support import NeverStop
from tests.stages.research.experiment import SMALL, SmallExperiment

Replay = Callable[..., list[ReplayedScore]]


@pytest.fixture
def folder(open_folder: Path, request: pytest.FixtureRequest) -> Path:
    found = open_folder / request.node.name
    found.mkdir(mode=0o711)
    return found


@pytest.fixture
def replay(small_experiment: SmallExperiment, code_runner: SandboxClient, folder: Path) -> Iterator[Replay]:
    """Call it with changes of results.json and a change of each program."""

    def run(change: Callable[[Any], None] = lambda _: None, **settings: Any) -> list[ReplayedScore]:
        results = json.loads(small_experiment.artifact("reproduction/results.json"))
        change(results)
        search = SearchReplay(parse(SMALL), read_recorded(json.dumps(results).encode()), folder)
        program = settings.pop("program", lambda stage: small_experiment.artifact(f"{stage}/best_solution.py"))
        return list(search.run(code_runner, NeverStop(), program, **settings))

    yield run
    code_runner.remove(folder)


def only(stage: str) -> Callable[[Any], None]:
    def keep(results: Any) -> None:
        results["stages"] = [each for each in results["stages"] if each["stage"] == stage]

    return keep


def test_every_stage_has_its_scores_again(replay: Replay) -> None:
    scores = replay()
    assert {each.stage for each in scores} == {"Stage_1", "Stage_2", "Stage_3", "Stage_4"}
    assert {each.split for each in scores} == {"search", "hidden"}
    assert all(each.is_equal and each.again == each.recorded for each in scores)


def test_another_score_is_no_equal_one_unless_the_tolerance_allows_it(replay: Replay) -> None:
    def change(results: Any) -> None:
        only("Stage_1")(results)
        for node in results["stages"][0]["nodes"]:
            if node["hidden"] is not None:
                node["hidden"] += 1e-6

    assert [(each.split, each.is_equal) for each in replay(change)] == [("search", True), ("hidden", False)]
    assert all(each.is_equal for each in replay(change, tolerance=1e-5))


def test_a_program_that_fails_now_is_a_difference_with_its_cause(replay: Replay) -> None:
    import hashlib

    program = b"raise ValueError('no such file')"

    def change(results: Any) -> None:
        only("Stage_1")(results)
        for node in results["stages"][0]["nodes"]:
            node["code"] = hashlib.sha256(program).hexdigest()

    scores = replay(change, program=lambda _: program)
    assert [(each.again, each.is_equal, each.problem) for each in scores] == [
        (None, False, "ValueError: no such file")
    ] * 2


def test_other_data_is_refused_before_anything_is_executed(replay: Replay) -> None:
    def change(results: Any) -> None:
        results["task"]["digest"] = "0" * 64

    with pytest.raises(RunError, match=r"is not that of the run .*environment\.txt") as caught:
        replay(change)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_another_program_than_the_recorded_one_is_refused(replay: Replay) -> None:
    with pytest.raises(RunError, match="Stage_1 is not that of node"):
        replay(program=lambda _: b"print()")


def test_results_of_another_form_are_refused() -> None:
    with pytest.raises(RunError, match=r"results\.json cannot be read"):
        read_recorded(b"[]")
