"""What the context reports of a stage: its start and its end, once, with the name of the failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, Interruption, RunError
from pod_worker.core.payload import Payload, RunLog, StageCompleted, StageFailed, StageStarted
from pod_worker.core.run import Checkpoint, Json, Run, RunStatus
from pod_worker.stages.context import StageContext, StopFlag


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Payload] = []
        self.saved: list[tuple[str, dict[str, Json]]] = []

    def emit(self, payload: Payload) -> str:
        self.seen.append(payload)
        return str(len(self.seen))


def context(
    recorder: Recorder, clock: ManualClock, artifacts: Any = None, folders: Any = None, **fields: Any
) -> StageContext:
    run = Run("r", "synthetic", "synthetic", RunStatus.RUNNING, {}, attempt=1, **fields)
    return StageContext(
        run,
        "paper",
        work_dir=Path("/nowhere"),
        emitter=recorder,
        artifacts=artifacts,
        folders=folders,
        stop=StopFlag(),
        save=lambda stage, state: recorder.saved.append((stage, state)),
        clock=clock,
    )


def test_a_stage_reports_its_start_its_end_and_how_long_it_took() -> None:
    recorder, clock = Recorder(), ManualClock()
    with context(recorder, clock) as stage:
        clock.advance(2.5)
        stage.summary = {"pages": 4}
    assert recorder.seen == [
        StageStarted(stage="paper", desc="paper"),
        StageCompleted(stage="paper", duration_s=2.5, summary={"pages": 4}),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), FailureCode.USER_ERROR),
        (RunError(FailureCode.LATEX_ERROR, "no pdf"), FailureCode.LATEX_ERROR),
        (MemoryError(), FailureCode.HOST_OOM),
        (KeyboardInterrupt(), FailureCode.USER_ERROR),
    ],
)
def test_a_failed_stage_is_named_and_the_error_goes_on(error: BaseException, code: FailureCode) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)), context(recorder, ManualClock()):
        raise error
    failed = recorder.seen[-1]
    assert isinstance(failed, StageFailed)
    assert failed.code == code


@pytest.mark.parametrize("error", [CancelRequested(), DrainRequested(), Interruption("fenced")])
def test_being_stopped_is_no_failure(error: Interruption) -> None:
    recorder = Recorder()
    with pytest.raises(Interruption), context(recorder, ManualClock()):
        raise error
    assert [type(each) for each in recorder.seen] == [StageStarted]


def test_a_checkpoint_is_found_again_by_the_next_attempt() -> None:
    recorder = Recorder()
    with context(
        recorder, ManualClock(), checkpoints={"paper": Checkpoint("paper", False, {"round": 3})}
    ) as stage:
        assert stage.saved_state == {"round": 3}
        stage.checkpoint({"round": 4})
        assert stage.saved_state == {"round": 4}
    assert recorder.saved == [("paper", {"round": 4})]


def test_levels_of_foreign_habit_become_the_contracts() -> None:
    recorder = Recorder()
    with context(recorder, ManualClock()) as stage:
        for level in ("warning", "critical"):
            stage.log("hello", level)
    logs = [each for each in recorder.seen if isinstance(each, RunLog)]
    assert [each.level for each in logs] == ["warn", "info"]


def test_a_cancel_outranks_a_drain() -> None:
    flag = StopFlag()
    flag.request(DrainRequested)
    flag.request(CancelRequested)
    flag.request(DrainRequested)
    with pytest.raises(CancelRequested):
        flag.check()


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("data/0123456789abcdef/corpus/", "stored:data/0123456789abcdef/corpus/::corpus"),
        ("data/0123456789abcdef/corpus/a/b.txt", "stored:data/0123456789abcdef/corpus/:a/b.txt:corpus"),
        ("data/0123456789abcdef/a.jsonl", "artifact:data/0123456789abcdef/a.jsonl:a.jsonl"),
        ("runs/r/1/outputs/a.jsonl", "artifact:runs/r/1/outputs/a.jsonl:a.jsonl"),
    ],
)
def test_data_is_a_stored_folder_or_an_artifact(tmp_path: Path, key: str, place: str) -> None:
    class Artifacts:
        def fetch(self, key: str, target: Path, sha256: str | None = None) -> Path:
            return Path(f"artifact:{key}:{target.relative_to(tmp_path)}")

    class Folders:
        def fetch_workdir(self, manifest: str, target: Path) -> None:
            raise AssertionError

        def fetch_data(self, folder_key: str, path: str, target: Path) -> Path:
            return Path(f"stored:{folder_key}:{path}:{target.relative_to(tmp_path)}")

    with context(Recorder(), ManualClock(), artifacts=Artifacts(), folders=Folders()) as stage:
        assert stage.fetch_data(key, tmp_path) == Path(place)
