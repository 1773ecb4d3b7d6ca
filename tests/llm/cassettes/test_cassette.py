"""Cassettes: what belongs to a question, what does not, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.research.completion import ChatMessage, Image
from pod_worker.llm.capability import OutputProfile, capability_of
from pod_worker.llm.cassettes.canonical import canonical_text
from pod_worker.llm.cassettes.cassette import CassetteError, Cassettes, question_of
from pod_worker.llm.cassettes.served_wire import ServedAnthropic, ServedOpenAi
from pod_worker.llm.providers import anthropic_messages, openai_chat
from pod_worker.llm.structured_output import AnswerProblem, asked_again, instructed
from pod_worker.llm.wire import WireAnswer, WireRequest
from tests.llm.requests_and_answers import MODEL, SCHEMA, cassette, question


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("node 01JDRZ3NDEKTSV4RRFFQ69G5FA failed", "node 01JDS00000KTSV4RRFFQ69G5FB failed"),
        ("id 4f0c1a2b-93d4-4f0c-8a2b-93d44f0c1a2b", "id 00000000-93d4-4f0c-8a2b-93d44f0c1a2b"),
        ("File /var/lib/runs/a1/solution.py, line 3", "File /mnt/data/b2/x/solution.py, line 3"),
        ("took 12.5 s", "took 3 seconds"),
        ("at 2026-11-29T01:02:03.5Z", "at 2025-01-01 10:00:00"),
        ("a  \nb\n", "a\nb"),
    ],
)
def test_what_differs_between_equal_runs_is_left_out(left: str, right: str) -> None:
    assert canonical_text(left) == canonical_text(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("accuracy 0.91", "accuracy 0.92"),
        ("x = a / b / c", "x = a / b / d"),
        ("use 3 layers", "use 4 layers"),
        ("train/test or and/or", "train/valid or and/or"),
        ("deadbeef", "feedbeef"),
    ],
)
def test_what_belongs_to_the_question_stays(left: str, right: str) -> None:
    assert canonical_text(left) != canonical_text(right)


@pytest.mark.parametrize("output", list(OutputProfile))
@pytest.mark.parametrize("model", [MODEL, "gpt-5-mini"])
def test_both_wires_and_all_profiles_ask_the_same_question(output: OutputProfile, model: str) -> None:
    capability = capability_of(model, output)
    messages = (
        ChatMessage("system", "You write code."),
        ChatMessage("user", "Look.", (Image("image/png", b"\x89PNG"),)),
        ChatMessage("assistant", "I did."),
        ChatMessage("user", "Go on."),
    )
    request = WireRequest(
        operation="node.draft",
        model=model,
        capability=capability,
        messages=instructed(messages, SCHEMA, capability),
        schema=SCHEMA,
    )
    expected = question_of("node.draft", model, 0, messages).key
    for wire, encode in (
        (ServedOpenAi(), openai_chat.encode_request),
        (ServedAnthropic(), anthropic_messages.encode_request),
    ):
        served = wire.read(encode(request))
        assert question_of("node.draft", served.model, 0, served.messages).key == expected


def test_a_question_asked_again_is_told_apart_only_where_it_was_recorded(tmp_path: Path) -> None:
    asked = question(1)
    request = WireRequest(
        operation="node.draft", model=MODEL, capability=capability_of(MODEL), messages=asked.messages
    )
    second = asked_again(request, WireAnswer(text="{}"), AnswerProblem("the answer is empty"))
    cassettes = Cassettes(tmp_path)
    cassettes.add(cassette(asked, "first"))
    again = question_of("node.draft", MODEL, 0, second.messages)
    assert again.asked_again == 1
    assert cassettes.find(again) is None, "while recording, the provider is asked"
    assert cassettes.require(again).text == "first"
    cassettes.add(cassette(asked, "better", asked_again=1))
    assert cassettes.require(again).text == "better"
    assert cassettes.require(question_of("node.draft", MODEL, 0, asked.messages)).text == "first"


@pytest.mark.parametrize("changed", [{"operation": "node.improve"}, {"model": "other"}, {"sample": 2}])
def test_another_operation_model_or_sample_has_no_cassette(tmp_path: Path, changed: dict) -> None:
    cassettes = Cassettes(tmp_path)
    cassettes.add(cassette(question(1)))
    values = {"operation": "node.draft", "model": MODEL, "sample": 0} | changed
    with pytest.raises(CassetteError, match=f"{next(iter(changed))} is ") as caught:
        cassettes.require(question_of(**values, messages=question(1).messages))
    assert "100% alike" in str(caught.value)


def test_cassettes_are_read_back_and_hold_no_secret(tmp_path: Path) -> None:
    secret = "sk-secret-0123456789abcdef"
    asked = question(1, messages=(ChatMessage("user", f"My key is {secret}."),))
    Cassettes(tmp_path, Redactor([secret])).add(cassette(asked, f"Your key is {secret}."))
    (file,) = tmp_path.iterdir()
    assert secret not in file.read_text()
    assert "***" in file.read_text()
    assert len(Cassettes(tmp_path)) == 1


def test_a_file_that_is_no_cassette_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(CassetteError, match=r"broken\.json"):
        Cassettes(tmp_path)
    with pytest.raises(CassetteError, match="is no folder"):
        Cassettes(tmp_path / "absent")
