"""A secret in the output is masked wherever a read ends."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pod_worker.core.clock import ManualClock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.payload import RunLog
from pod_worker.worker.capture.output_capture import LINE_CHARACTERS, OutputCapture
from pod_worker.worker.capture.output_mask import OutputMask

SECRETS = ["s3cr3t-s3cr3t", "s3cr3t-value", "another one"]
PIECES = st.sampled_from([*SECRETS, "s3cr", "s3cr3t-", "\n", "\r", "text ", "***", "x" * 40])


@example(["s3cr3t-", "s3cr3t-s3cr3t", "s3cr3t-s3cr3t"], [26])
@given(st.lists(PIECES, max_size=30), st.lists(st.integers(1, 40), max_size=60))
def test_any_reads_give_what_one_read_gives(pieces: list[str], sizes: list[int]) -> None:
    data = "".join(pieces).encode()
    mask, shown, rest = OutputMask(Redactor(SECRETS)), b"", data
    for size in sizes:
        shown += mask.feed(rest[:size])
        rest = rest[size:]
    shown += mask.feed(rest) + mask.rest()
    assert shown == Redactor(SECRETS).redact_bytes(data)


def test_a_finished_line_is_shown_at_once() -> None:
    mask = OutputMask(Redactor(SECRETS))
    assert mask.feed(b"step 1\ns3cr") == b"step 1\n"
    assert mask.feed(b"3t-value\n") == b"***\n"


@pytest.mark.parametrize("offset", [0, 5, LINE_CHARACTERS - 3, LINE_CHARACTERS + 5])
def test_no_file_event_or_tail_has_a_secret(tmp_path: Path, offset: int) -> None:
    """Also where a long line is cut in the middle of one, or where removed characters had split it."""
    logs: list[RunLog] = []
    data = b"x" * offset + b"s3cr3t-value end\n" + b"y" * 70_000 + b"s3cr3t-value"
    source = io.BufferedReader(io.BytesIO(data))
    made = OutputCapture(source, tmp_path / "output.log", logs.append, ManualClock(), Redactor(SECRETS))
    made.run()
    written = (tmp_path / "output.log").read_text()
    assert "s3c" not in written + str(logs) + str(made.tail)
    assert written.count("***") == 2
