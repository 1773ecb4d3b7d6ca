"""Where the rows of a training come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.training.data import dataset
from pod_worker.training.params import parse
from tests.training.context import FolderContext

ROWS = '{"text": "a"}\n{"text": "b"}\n'


def test_a_folder_is_refused_with_the_files_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "store/data/0123456789abcdef/corpus"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(ROWS)
    key = "data/0123456789abcdef/corpus/"
    context = FolderContext(tmp_path, {})
    with pytest.raises(RunError, match=r"is a folder \(train\.jsonl\).*corpus/NAME") as refused:
        dataset.read(context, parse({"model": "m", "dataset": key}))
    assert refused.value.code is FailureCode.INVALID_INPUT
    found = dataset.read(context, parse({"model": "m", "dataset": key + "train.jsonl", "eval_fraction": 0}))
    assert len(found.training) == 2
