from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pod_worker.training.data.demo_data import DemoData, build, demo_params
from pod_worker.training.data.rows import Conversation, read_rows
from pod_worker.training.params import parse


def contents(material: DemoData) -> dict[str, bytes]:
    files = [material.dataset, *material.model.iterdir()]
    return {path.name: path.read_bytes() for path in files}


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one", rows=30), build(tmp_path / "two", rows=30)
    assert contents(one) == contents(two)
    assert contents(build(tmp_path / "three", rows=30, seed=1)) != contents(one)


def test_rows_are_signatures_with_their_docstrings(material: DemoData) -> None:
    rows = read_rows(material.dataset)
    assert len(rows) == material.rows == 120
    for row in rows:
        assert isinstance(row.content, Conversation)
        question, answer = row.content.messages
        assert "\ndef " in question["content"]
        assert answer["content"].strip()


def test_the_demos_parameters_are_good_ones(material: DemoData) -> None:
    assert parse(demo_params(material)).dataset == str(material.dataset)


def test_torch_is_not_needed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pod_worker.training.data.demo_data import build;"
        "build(Path(sys.argv[1]), rows=5); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
