"""The journal survives every cut, refuses damage, and is the whole state."""

from __future__ import annotations

import os

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.search.tree.journal import JOURNAL_NAME, Journal, read_state, whole_records
from pod_worker.search.tree.node import NodeOutcome, Operation
from pod_worker.search.tree.records import (
    FailuresVoided,
    NodeAnalysed,
    NodeDeclined,
    NodeFinished,
    NodeInterrupted,
    NodePlanned,
    NodeProposed,
    NodeStarted,
    StageFinished,
    StageSelected,
)

RECORDS = (
    NodePlanned(node_id="Stage_1-001", stage="Stage_1", step=1, operation=Operation.DRAFT, seed=3),
    NodeProposed(node_id="Stage_1-001", code="a" * 64, shape="s", plan="Größe", calls=1),
    NodeStarted(node_id="Stage_1-001"),
    NodeInterrupted(node_id="Stage_1-001"),
    NodeStarted(node_id="Stage_1-001"),
    NodeFinished(node_id="Stage_1-001", outcome=NodeOutcome.SCORED, search_score=0.5, hidden_score=0.25),
    NodeAnalysed(node_id="Stage_1-001", insight="one\nline"),
    NodePlanned(
        node_id="Stage_1-002", stage="Stage_1", step=2, operation=Operation.DEBUG, seed=4, parent="Stage_1-001"
    ),
    NodeDeclined(node_id="Stage_1-002", reason="no", calls=2, failure_code="LLM_ERROR"),
    FailuresVoided(),
    StageSelected(stage="Stage_1", candidate="Stage_1-001", selected="Stage_1-001", is_better=False),
    StageFinished(stage="Stage_1", reason="first score"),
)


def write(folder):
    with Journal.open(folder, 7) as journal:
        for record in RECORDS:
            journal.append(record)
        return journal.state


def test_a_reopened_journal_has_the_state_that_was_written(tmp_path):
    state = write(tmp_path)
    with Journal.open(tmp_path, 7) as journal:
        assert journal.state == state == read_state(tmp_path)
    node = state.nodes["Stage_1-001"]
    assert (node.outcome, node.starts, node.calls, node.insight) == (NodeOutcome.SCORED, 1, 2, "one\nline")
    assert state.nodes["Stage_1-002"].is_voided
    assert [node.id for node in state.written("Stage_1")] == ["Stage_1-001"]


def test_cut_at_every_byte_it_opens_with_the_records_that_are_whole(tmp_path):
    write(tmp_path)
    path = tmp_path / JOURNAL_NAME
    data = path.read_bytes()
    ends = [0, *(index + 1 for index, byte in enumerate(data) if byte == 10)]
    for length in range(len(data) + 1):
        records, size = whole_records(data[:length], path)
        assert size == max(end for end in ends if end <= length), f"cut at {length}"
        assert [*records[1:]] == [*RECORDS[: max(len(records) - 1, 0)]]


@pytest.mark.parametrize("lost_bytes", [1, 2, 40, 300])
def test_a_cut_journal_goes_on_after_its_last_whole_record(tmp_path, lost_bytes):
    whole = write(tmp_path)
    path = tmp_path / JOURNAL_NAME
    os.truncate(path, path.stat().st_size - lost_bytes)
    with Journal.open(tmp_path, 7) as journal:
        assert journal.state.position < whole.position
        journal.append(StageFinished(stage="Stage_9", reason="goes on"))
    assert list(read_state(tmp_path).reasons) == ["Stage_9"]


def test_a_damaged_record_before_whole_ones_is_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    changed = lines[5].replace(b"0", b"1", 1)
    for damaged in ([*lines[:5], changed, *lines[6:]], [*lines[:5], *lines[6:]], [lines[1], lines[0], *lines[2:]]):
        path.write_bytes(b"".join(damaged))
        with pytest.raises(RunError, match="damaged") as caught:
            Journal.open(tmp_path, 7)
        assert caught.value.code is FailureCode.ENVIRONMENT
        assert path.read_bytes() == b"".join(damaged), "a refused file is left as it is"


def test_a_changed_score_is_found(tmp_path):
    write(tmp_path)
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(path.read_bytes().replace(b'"hidden_score":0.25', b'"hidden_score":0.99'))
    with pytest.raises(RunError, match="damaged at record 6"):
        read_state(tmp_path)


def test_a_second_writer_is_refused(tmp_path):
    with Journal.open(tmp_path, 7), pytest.raises(RunError, match="another process writes"):
        Journal.open(tmp_path, 7)


def test_another_seed_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(RunError, match="seed 7, not 8") as caught:
        Journal.open(tmp_path, 8)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_a_record_is_flushed_before_it_counts(tmp_path, monkeypatch):
    with Journal.open(tmp_path, 7) as journal:
        flushed = []
        monkeypatch.setattr(os, "fsync", lambda fd: flushed.append((fd, len(journal.state.nodes))))
        journal.append(RECORDS[0])
        assert [count for _, count in flushed] == [0]
        assert len(journal.state.nodes) == 1


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    write_all = os.write
    with Journal.open(tmp_path, 7) as journal:
        before = (tmp_path / JOURNAL_NAME).read_bytes()

        def half(fd, data):
            monkeypatch.setattr(os, "write", full)
            return write_all(fd, bytes(data)[: len(data) // 2])

        def full(fd, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            journal.append(RECORDS[0])
        monkeypatch.undo()
        assert (tmp_path / JOURNAL_NAME).read_bytes() == before
        assert not journal.state.nodes
        journal.append(RECORDS[0])
    assert list(read_state(tmp_path).nodes) == ["Stage_1-001"]


def test_programs_are_stored_by_content_and_checked(tmp_path):
    with Journal.open(tmp_path, 7) as journal:
        name = journal.store_code("print('ü')\n")
        assert journal.store_code("print('ü')\n") == name
        assert journal.read_code(name) == "print('ü')\n"
        (tmp_path / "code" / f"{name}.py").write_text("print('other')")
        with pytest.raises(RunError, match="lost or damaged"):
            journal.read_code(name)
        with pytest.raises(RunError, match="lost or damaged"):
            journal.read_code("0" * 64)


def test_a_record_of_an_unknown_node_is_not_written(tmp_path):
    with Journal.open(tmp_path, 7) as journal, pytest.raises(KeyError):
        journal.append(NodeStarted(node_id="Stage_1-009"))
    assert read_state(tmp_path).position == 1
