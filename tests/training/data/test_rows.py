from __future__ import annotations

import json
from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.training.data.rows import Completion, Conversation, Text, read_rows
from pod_worker.training.params import Format

CHAT = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'


def written(folder: Path, *lines: bytes) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def refusal(path: Path, format: Format = "auto") -> str:
    with pytest.raises(RunError) as caught:
        read_rows(path, format)
    assert caught.value.code is FailureCode.INVALID_INPUT
    return caught.value.message


def test_each_format_is_found_by_its_first_row(tmp_path: Path) -> None:
    assert isinstance(read_rows(written(tmp_path, CHAT))[0].content, Conversation)
    row = read_rows(written(tmp_path, b'{"prompt": "", "completion": "c", "id": 4}'))[0]
    assert row.content == Completion("", "c")
    assert read_rows(written(tmp_path, b'{"text": "t"}'))[0].content == Text("t")


def test_blank_lines_and_a_byte_order_mark_are_harmless_and_places_count_lines(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, b"\xef\xbb\xbf" + CHAT, b"", b"  ", CHAT))
    assert [row.location for row in rows] == ["data.jsonl:1", "data.jsonl:4"]


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    assert len(read_rows(written(tmp_path, CHAT, CHAT, b"not json"), limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": []}', "'messages' is not a list of messages"),
        (b'{"messages": "hi"}', "'messages' is not a list of messages"),
        (b'{"text": "t"}', "'messages' is missing"),
        (b'{"messages": ["hi"]}', "message 0 is not an object"),
        (b'{"messages": [{"role": "user"}]}', "message 0 has no 'content' (has 'role')"),
        (b'{"messages": [{"content": "x"}]}', "message 0 has no 'role'"),
        (b'{"messages": [{"role": "assistant", "content": 3}]}', "'content' is a int, not text"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "no message has the role 'assistant'"),
        (b'{"messages": ', "not valid JSON"),
        (b'{"messages": NaN}', "not valid JSON"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b'{"messages": "\xff"}', "not valid UTF-8 at byte 14"),
        (rb'{"messages": [{"role": "assistant", "content": "\ud83d"}]}', "not valid JSON"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    message = refusal(written(tmp_path, CHAT, line, CHAT))
    assert "data.jsonl" in message
    assert "line 2: " in message
    assert reason in message


@pytest.mark.parametrize(
    ("format", "line", "reason"),
    [
        ("prompt_completion", b'{"prompt": "p"}', "no 'completion' (has 'prompt')"),
        ("prompt_completion", b'{"completion": "c"}', "no 'prompt'"),
        ("prompt_completion", b'{"prompt": "p", "completion": ""}', "nothing to learn"),
        ("text", b'{"text": null}', "'text' is a NoneType, not text"),
        ("text", b'{"text": ""}', "nothing to learn"),
        ("auto", b'{"question": "q"}', "has 'question'; needs 'messages'"),
    ],
)
def test_a_row_without_the_needed_fields(tmp_path: Path, format: Format, line: bytes, reason: str) -> None:
    assert reason in refusal(written(tmp_path, line), format)


def test_many_bad_lines_are_counted_not_all_shown(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, *[b"nonsense"] * 8))
    assert message.count("line ") == 5 + 5  # "each line must be" is part of each
    assert "and 3 more bad lines" in message


def test_no_file_a_folder_and_an_empty_file_each_say_so(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.jsonl")
    assert "is a folder" in refusal(tmp_path)
    assert "is empty" in refusal(written(tmp_path, b"", b" "))


def with_call(arguments: object, nested: bool = True) -> bytes:
    call = {"name": "weather", "arguments": arguments}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": call} if nested else call]},
    ]
    return json.dumps({"messages": messages}).encode()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_arguments_of_a_tool_call_are_an_object(tmp_path: Path, arguments: object, nested: bool) -> None:
    (row,) = read_rows(written(tmp_path, with_call(arguments, nested)))
    assert isinstance(row.content, Conversation)
    call = row.content.messages[1]["tool_calls"][0]
    assert (call["function"] if nested else call)["arguments"] == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("arguments", "reason"), [("{city: Oslo}", "are not valid JSON"), ('["Oslo"]', "are a list, not an object")]
)
def test_arguments_that_are_no_object_are_refused(tmp_path: Path, arguments: str, reason: str) -> None:
    assert reason in refusal(written(tmp_path, with_call(arguments)))
