"""`pod_worker.jobs`: the fields of a job file as keyword arguments, and the handle of a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from pymongo.database import Database

from pod_worker import jobs
from pod_worker.command.job.spec import JobSpec
from pod_worker.core.failure import RunError
from pod_worker.store.events.reader import LOG_TYPE
from pod_worker.submission.errors import JobInputError, NoSuchRunError

Db = Database[dict[str, Any]]


@pytest.fixture
def connected(mongodb_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    yield
    jobs.close()


def test_the_keyword_arguments_are_the_fields_of_a_job_file() -> None:
    fields = {each.name: each for each in msgspec.structs.fields(JobSpec)}
    assert get_type_hints(jobs.JobFields).keys() == fields.keys()
    shown = inspect.signature(jobs.run).parameters
    assert shown.keys() == fields.keys()
    assert shown["keep_checkpoints"].default == fields["keep_checkpoints"].default
    assert [name for name, each in shown.items() if each.default is inspect.Parameter.empty] == ["run"]


@pytest.mark.usefixtures("connected")
def test_a_handle_waits_and_has_the_log(db: Db) -> None:
    job = jobs.run(run="exit 3", name="short")
    assert (job.status(), jobs.get("short").id) == ("QUEUED", job.id)
    with pytest.raises(TimeoutError, match="it goes on"):
        job.wait(timeout=0)
    db.events.insert_many(
        {
            "_id": f"e{number}",
            "runId": job.id,
            "type": LOG_TYPE,
            "position": number,
            "time": datetime.now(UTC),
            "data": {"message": f"line {number}", "level": "info"},
        }
        for number in (1, 2)
    )
    failed = {"status": "FAILED", "exitCode": 3, "errorMessage": "the command ended with exit code 3"}
    db.runs.update_one({"_id": job.id}, {"$set": failed})
    assert [each.message for each in job.logs(follow=True)] == ["line 1", "line 2"]
    assert [each.message for each in job.logs(last=1)] == ["line 2"]
    end = job.wait()
    assert (end.status, end.exit_code, end.is_ok) == ("FAILED", 3, False)
    db.runs.delete_one({"_id": job.id})
    assert job.wait().status == "DELETED"


@pytest.mark.parametrize(
    ("fields", "error", "hint"),
    [
        ({"runs": "x"}, RunError, "'run'"),
        ({"run": "x", "max_duration": "soon"}, RunError, '"90m"'),
        ({"run": "x", "workdir": "no-such-folder"}, JobInputError, "not a folder"),
        ({"run": "x", "secrets": {"NOT_SET_ANYWHERE": None}}, JobInputError, "export NOT_SET_ANYWHERE"),
        ({"run": "x", "after": ["nothing"]}, NoSuchRunError, "there is no run 'nothing'"),
    ],
)
@pytest.mark.usefixtures("connected")
def test_bad_input_is_refused_with_the_fix_and_nothing_is_queued(
    db: Db, fields: Any, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        jobs.run(**fields)
    assert db.runs.count_documents({}) == 0
