"""Job files, and changes of single fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.command.job.document import read_job_file, set_fields
from pod_worker.core.failure import RunError


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("run: python train.py\nenvs: {LR: 1e-4}\n")
    assert read_job_file(file) == {"run": "python train.py", "envs": {"LR": "1e-4"}}


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"run: [", "no YAML"),
        (b"run: a\nrun: b\n", "line 2: the key 'run' is written twice"),
        (b"run: !!python/object/apply:os.system ['true']", "no YAML"),
        (b"\xff\xfe", "UTF-8"),
        (b"just text", "holds no fields"),
        (b"x" * 1_100_000, "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_job_is_named_with_the_fix(tmp_path: Path, content: bytes, hint: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(content)
    with pytest.raises(RunError) as refused:
        read_job_file(file)
    assert hint in refused.value.message
    assert "job.yaml" in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.yaml cannot be read"):
        read_job_file(tmp_path / "nowhere.yaml")


def test_fields_are_set_by_path_and_the_original_stays() -> None:
    fields = {"run": "x", "envs": {"A": "1"}}
    changed = set_fields(fields, [("envs.LR", 0.1), ("envs.a.b", "dots"), ("resources.gpu", "H100:2")])
    assert changed == {"run": "x", "envs": {"A": "1", "LR": 0.1, "a.b": "dots"}, "resources": {"gpu": "H100:2"}}
    assert fields == {"run": "x", "envs": {"A": "1"}}


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(RunError, match="'run' is 'x', not a group"):
        set_fields({"run": "x"}, [("run.shell", "bash")])
