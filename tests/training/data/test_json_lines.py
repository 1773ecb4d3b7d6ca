from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.training.data.json_lines import json_lines

ROWS = [{"text": "naïve"}, {"text": "line\u2028separator"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for _, line in json_lines(path)]


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.encode("utf-16"),
        lambda text: json.dumps(ROWS).encode(),
        lambda text: json.dumps(ROWS, indent=2).encode(),
    ],
    ids=["jsonl", "crlf and byte order mark", "gzip", "utf-16", "array", "pretty array"],
)
def test_common_forms_are_read(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    path = tmp_path / "rows"
    path.write_bytes(encode(JSONL))
    assert read(path) == ROWS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PAR1\x15\x04", "is a Parquet file: convert it to JSONL"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (b'{\n  "text": 1\n}\n', "spreads one JSON object over several lines"),
        (b"[1, 2", "begins as a JSON array and is none"),
        (gzip.compress(b"x" * 999, mtime=0)[:-9], "cannot be read (EOFError"),
        (b"\xff\xfex", "cannot be read (UnicodeDecodeError"),
    ],
)
def test_other_forms_are_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        read(path)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert reason in caught.value.message
    assert str(path) in caught.value.message


def test_a_relative_path_is_shown_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=f"{tmp_path}/rows.jsonl does not exist"):
        read(Path("rows.jsonl"))
