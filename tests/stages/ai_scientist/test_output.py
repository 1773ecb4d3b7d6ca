"""Lines of the original: masked, bounded, understood."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pod_worker.core.credentials.secret import Redactor
from pod_worker.stages.ai_scientist import output as module
from pod_worker.stages.ai_scientist.output import OutputFacts, OutputReader

SECRET = "sk-0123456789abcdef"


def read(folder: Path, *chunks: bytes) -> tuple[bytes, OutputFacts]:
    shown: list[bytes] = []
    with OutputReader(folder / "log", Redactor([SECRET]), shown.append) as reader:
        for chunk in chunks:
            os.write(reader.writer, chunk)
        reader.started()
    return b"".join(shown), reader.facts


def test_a_secret_on_the_border_of_two_parts_of_a_line_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_BYTES", 16)
    for length in range(1, 33):
        shown, _ = read(tmp_path, b"x" * length, SECRET.encode(), b"y" * 40, b"\n")
        assert shown == b"x" * length + b"***" + b"y" * 40 + b"\n"


def test_the_end_of_a_long_log_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 20)
    shown, _ = read(tmp_path, *(b"line %d\n" % number for number in range(9)))
    assert shown.endswith(b"line 8\n")
    kept = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert kept.endswith(b"line 8\n")
    assert len(kept) <= 40


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Start cleaning up processes", "is_finished"),
        ("Writeup process did not complete successfully after all retries.", "has_no_paper"),
        ("Paper found at:  experiments/x.pdf", "is_paper_found"),
        ("Paper review completed.", "is_review_done"),
        (
            "[red]Experiment ended: Could not find working implementation in initial stage after 2",
            "has_no_working_program",
        ),
    ],
)
def test_its_lines_are_facts(line: str, name: str) -> None:
    facts = OutputFacts()
    facts.read(f"the model wrote: {line}")
    assert not getattr(facts, name), "only a line of its own counts"
    facts.read(line)
    assert getattr(facts, name)


def test_the_last_error_is_kept() -> None:
    facts = OutputFacts()
    for line in (
        "ValueError: first",
        "openai.AuthenticationError: Error code: 401",
        "  IndentedError: no",
        "An Error: no",
    ):
        facts.read(line)
    assert facts.last_error == "openai.AuthenticationError: Error code: 401"
    facts.read("Exception: Text too short")
    assert facts.last_error == "Exception: Text too short"
