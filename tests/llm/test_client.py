"""The metered client against a real server: answers, faults on both wires, retries, cache, stop."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, RunError
from pod_worker.core.research.completion import ChatMessage, Image, TokenUsage
from pod_worker.llm.capability import OutputProfile
from pod_worker.llm.cassettes.faults import ModelFault, ModelFaultKind
from pod_worker.llm.cassettes.replay import Replay
from pod_worker.llm.client import MeteredClient, RetryPolicy
from pod_worker.llm.spending.ledger import CallStatus, read_ledger, read_rows
from pod_worker.llm.spending.limits import SpendCaps
from tests.llm.requests_and_answers import KEY, SCHEMA, USAGE, WIRES, Stop, cassette, question

MakeClient: TypeAlias = Callable[..., MeteredClient]

PRICE = 900 * 3 + 100 * 0.3 + 200 * 15  # micro-USD of USAGE


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("output", list(OutputProfile))
def test_one_cassette_answers_every_profile(make_client: MakeClient, wire: str, output: str) -> None:
    completion = make_client(wire, output=output).complete(question(1))
    assert completion.value == {"plan": "fit a line", "code": "print(1)\n"}
    assert (completion.usage, completion.micro_usd, completion.is_cached) == (USAGE, PRICE, False)


@pytest.mark.parametrize("wire", WIRES)
def test_free_text_is_not_decoded(make_client: MakeClient, wire: str) -> None:
    completion = make_client(wire).complete(question(0, operation="node.analyse", schema=None))
    assert (completion.text, completion.value) == ("It works.", None)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "output", "calls"),
    [
        # Faults of the content: the model is asked again, or the JSON is found inside the answer.
        (ModelFaultKind.TRUNCATED_JSON, None, 2),
        (ModelFaultKind.LENGTH, None, 2),
        (ModelFaultKind.NO_TOOL_CALL, None, 2),
        (ModelFaultKind.WRONG_SCHEMA, None, 2),
        (ModelFaultKind.EMPTY_CODE, None, 2),
        (ModelFaultKind.EMPTY_REPLY, None, 2),
        (ModelFaultKind.CONTENT_FILTER, None, 2),
        (ModelFaultKind.REFUSAL, None, 2),
        (ModelFaultKind.PROSE, None, 1),
        (ModelFaultKind.TRUNCATED_JSON, "text", 2),
        (ModelFaultKind.PROSE, "text", 1),
        (ModelFaultKind.WRONG_SCHEMA, "json_object", 2),
        # Faults of the connection or the server: the same request once more.
        (ModelFaultKind.RATE_LIMIT, None, 1),
        (ModelFaultKind.SERVER_ERROR, None, 1),
        (ModelFaultKind.RESET, None, 2),
        (ModelFaultKind.NOT_JSON, None, 2),
    ],
)
def test_a_single_fault_is_survived(
    make_client: MakeClient, replay: Replay, wire: str, kind: ModelFaultKind, output: str | None, calls: int
) -> None:
    """`calls`: those that are counted, because the model ran or may have run."""
    replay.faults.replace([ModelFault(kind)])
    client = make_client(wire, output=output)
    assert client.complete(question(2)).value["code"] == "print(1)\n"
    assert replay.counts.to_json()["requests"] == (1 if kind is ModelFaultKind.PROSE else 2)
    assert client.total().calls == calls


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("kind", "code", "requests"),
    [
        (ModelFaultKind.RATE_LIMIT, FailureCode.LLM_RATE_LIMIT, 3),
        (ModelFaultKind.SERVER_ERROR, FailureCode.LLM_ERROR, 3),
        (ModelFaultKind.NOT_JSON, FailureCode.LLM_ERROR, 3),
        (ModelFaultKind.RESET, FailureCode.NETWORK, 3),
        (ModelFaultKind.AUTH, FailureCode.LLM_AUTH, 1),
        (ModelFaultKind.WRONG_SCHEMA, FailureCode.LLM_ERROR, 3),
        (ModelFaultKind.EMPTY_REPLY, FailureCode.LLM_ERROR, 3),
        (ModelFaultKind.CONTENT_FILTER, FailureCode.LLM_ERROR, 3),
    ],
)
def test_a_lasting_fault_ends_with_its_code(
    make_client: MakeClient, replay: Replay, wire: str, kind: ModelFaultKind, code: FailureCode, requests: int
) -> None:
    replay.faults.replace([ModelFault(kind, count=0)])
    client = make_client(wire)
    with pytest.raises(RunError) as caught:
        client.complete(question(3))
    assert caught.value.code is code
    assert replay.counts.to_json()["requests"] == requests
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("wire", WIRES)
def test_a_hanging_server_is_given_up(make_client: MakeClient, replay: Replay, wire: str) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.HANG, count=0)])
    client = make_client(wire, timeout_seconds=0.05)
    with pytest.raises(RunError) as caught:
        client.complete(question(4))
    assert caught.value.code is FailureCode.NETWORK
    total = client.total()
    assert total.calls == 3, "each may have been answered and billed: it is counted at its reserved price"
    assert total.output_tokens == 3 * 400


def test_a_refused_connection_costs_nothing(make_client: MakeClient) -> None:
    client = make_client("openai", openai_base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RunError) as caught:
        client.complete(question(4))
    assert caught.value.code is FailureCode.NETWORK
    assert "OPENAI_BASE_URL" in str(caught.value)
    assert (client.total().calls, client.total().refused, client.total().micro_usd) == (0, 3, 0)


def test_retry_after_is_followed(make_client: MakeClient, replay: Replay) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.RATE_LIMIT, value=0.3)])
    began = time.monotonic()
    make_client().complete(question(5))
    assert time.monotonic() - began >= 0.3


def test_a_long_retry_after_ends_the_call(make_client: MakeClient, replay: Replay) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.RATE_LIMIT, value=3_600)])
    with pytest.raises(RunError) as caught:
        make_client().complete(question(5))
    assert caught.value.code is FailureCode.LLM_RATE_LIMIT
    assert replay.counts.to_json()["requests"] == 1


@pytest.mark.parametrize("wire", WIRES)
def test_an_unknown_question_names_the_nearest_cassette(
    make_client: MakeClient, replay: Replay, wire: str
) -> None:
    asked = question(
        7, messages=(ChatMessage("system", "You write code."), ChatMessage("user", "Task number 7, please."))
    )
    with pytest.raises(RunError) as caught:
        make_client(wire).complete(asked)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert "no cassette for node.draft" in str(caught.value)
    assert "Task number 7, please." in str(caught.value)
    assert replay.counts.to_json()["unknown"] == 1
    assert replay.counts.to_json()["answered"] == 0


# ── cache ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wire", WIRES)
def test_a_second_client_of_the_run_pays_nothing(make_client: MakeClient, replay: Replay, wire: str) -> None:
    first = make_client(wire).complete(question(8))
    resumed = make_client(wire)
    again = resumed.complete(question(8))
    assert (again.value, again.usage, again.is_cached, again.micro_usd) == (first.value, first.usage, True, 0)
    assert replay.counts.to_json()["requests"] == 1
    assert (resumed.total().calls, resumed.total().from_cache) == (1, 1)
    assert resumed.total().micro_usd == first.micro_usd


@pytest.mark.parametrize(
    "other",
    [
        question(9, sample=1),
        question(9, temperature=0.1),
        question(9, operation="node.improve"),
        question(9, schema=SCHEMA | {"title": "other"}),
        question(10),
    ],
)
def test_another_request_is_not_answered_from_the_cache(make_client: MakeClient, replay: Replay, other) -> None:
    client = make_client()
    client.complete(question(9))
    with suppress(RunError):  # most have no cassette
        assert not client.complete(other).is_cached
    assert replay.counts.to_json()["requests"] == 2


def test_a_damaged_entry_is_named_and_paid_again(
    make_client: MakeClient, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_client().complete(question(11))
    (entry,) = (tmp_path / "llm" / "cache").iterdir()
    for damage in (b"", entry.read_bytes()[:-20], entry.read_bytes().replace(b"fit a line", b"fit a lime")):
        entry.write_bytes(damage)
        with caplog.at_level(logging.WARNING):
            assert make_client().complete(question(11)).value["plan"] == "fit a line"
        assert entry.name in caplog.text
        caplog.clear()
    assert replay.counts.to_json()["requests"] == 4


def test_questions_that_were_asked_again_are_not_repeated_after_a_resume(
    make_client: MakeClient, replay: Replay
) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.WRONG_SCHEMA)])
    make_client().complete(question(12))
    assert make_client().complete(question(12)).is_cached
    assert replay.counts.to_json()["requests"] == 2


def test_unusable_answers_do_not_stay_in_the_cache(make_client: MakeClient, replay: Replay) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.WRONG_SCHEMA, count=3)])
    with pytest.raises(RunError):
        make_client().complete(question(13))
    assert make_client().complete(question(13)).value["plan"] == "fit a line"


def test_equal_requests_at_the_same_time_are_one_call(make_client: MakeClient, replay: Replay) -> None:
    replay.latency_seconds = 0.2
    client = make_client()
    with ThreadPoolExecutor(8) as pool:
        completions = list(pool.map(lambda _: client.complete(question(14)), range(8)))
    assert replay.counts.to_json()["requests"] == 1
    assert sum(each.micro_usd for each in completions) == PRICE
    assert sum(not each.is_cached for each in completions) == 1


def test_different_requests_run_side_by_side(make_client: MakeClient, replay: Replay) -> None:
    client = make_client()
    with ThreadPoolExecutor(8) as pool:
        completions = list(pool.map(lambda number: client.complete(question(number)), range(40)))
    assert all(each.value["plan"] == "fit a line" for each in completions)
    counts = replay.counts.to_json()
    assert (counts["requests"], counts["duplicates"]) == (40, 0)
    assert client.total().micro_usd == 40 * PRICE


# ── stop ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reason", [CancelRequested, DrainRequested])
def test_a_stop_ends_a_backoff(make_client: MakeClient, replay: Replay, reason) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.RATE_LIMIT, value=500)])
    stop = Stop()
    client = make_client(stop=stop, retry=RetryPolicy(cap_seconds=600))
    before = _calls_in_flight()
    _stop_when(stop, reason, lambda: client.total().refused == 1)
    with pytest.raises(reason):
        client.complete(question(15))
    _wait_until(lambda: not _calls_in_flight() - before, 10)


def test_a_cancel_does_not_wait_for_an_answer(make_client: MakeClient, replay: Replay) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.HANG)])
    stop = Stop()
    client = make_client(stop=stop)
    _stop_when(stop, CancelRequested, lambda: replay.counts.to_json()["requests"] == 1)
    with pytest.raises(CancelRequested):
        client.complete(question(16))


def test_a_drain_lets_a_paid_answer_reach_the_cache(make_client: MakeClient, replay: Replay) -> None:
    replay.latency_seconds = 0.3
    stop = Stop()
    client = make_client(stop=stop)
    _stop_when(stop, DrainRequested, lambda: replay.counts.to_json()["requests"] == 1)
    with pytest.raises(DrainRequested):
        client.complete(question(17))
    assert make_client().complete(question(17)).is_cached
    assert replay.counts.to_json()["requests"] == 1


def _calls_in_flight() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("llm-")}


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _stop_when(stop: Stop, reason, condition: Callable[[], bool]) -> None:
    def wait() -> None:
        _wait_until(condition)
        stop.reason = reason

    threading.Thread(target=wait, daemon=True).start()


# ── money ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_call_over_the_cap_is_not_sent(make_client: MakeClient, replay: Replay) -> None:
    client = make_client(caps=SpendCaps(usd=0.005))
    with pytest.raises(RunError) as caught:
        client.complete(question(18))
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED
    assert replay.counts.to_json()["requests"] == 0


@pytest.mark.parametrize("caps", [SpendCaps(calls=2), SpendCaps(tokens=2_700), SpendCaps(usd=0.017)])
def test_caps_hold_across_attempts(make_client: MakeClient, replay: Replay, caps: SpendCaps) -> None:
    make_client(caps=caps).complete(question(19))
    make_client(caps=caps).complete(question(20))
    with pytest.raises(RunError) as caught:
        make_client(caps=caps).complete(question(21))
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED
    assert replay.counts.to_json()["requests"] == 2


def test_a_repeated_question_is_a_call_under_the_cap(make_client: MakeClient, replay: Replay) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.WRONG_SCHEMA, count=0)])
    with pytest.raises(RunError) as caught:
        make_client(caps=SpendCaps(calls=2)).complete(question(22))
    assert caught.value.code is FailureCode.BUDGET_EXCEEDED
    assert replay.counts.to_json()["requests"] == 2


def test_an_unknown_price_under_a_cap_is_refused(make_client: MakeClient, replay: Replay) -> None:
    with pytest.raises(RunError) as caught:
        make_client(model="own-model").complete(question(23))
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert "POD_WORKER_LLM_PRICES" in str(caught.value)
    assert replay.counts.to_json()["requests"] == 0


def test_without_a_cap_an_unknown_price_is_recorded_as_unknown(
    make_client: MakeClient, server, tmp_path: Path
) -> None:
    server.replay.cassettes.add(cassette(question(24), model="own-model"))
    client = make_client(model="own-model", caps=SpendCaps())
    client.complete(question(24))
    assert client.total().unpriced_calls == 1
    (row,) = [row for row in read_rows(tmp_path / "llm" / "ledger.ndjson") if getattr(row, "status", None)]
    assert row.micro_usd is None


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_without_usage_costs_what_was_reserved(
    make_client: MakeClient, replay: Replay, wire: str
) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.NO_USAGE)])
    client = make_client(wire)
    completion = client.complete(question(25))
    assert completion.micro_usd > 400 * 15
    assert client.total().output_tokens == 400


def test_the_ledger_has_a_row_per_call(make_client: MakeClient, replay: Replay, tmp_path: Path) -> None:
    replay.faults.replace([ModelFault(ModelFaultKind.RATE_LIMIT)])
    client = make_client()
    client.complete(question(26, node_id="n7"))
    client.complete(question(26, node_id="n7"))
    path = tmp_path / "llm" / "ledger.ndjson"
    rows = [row for row in read_rows(path) if getattr(row, "status", None)]
    assert [row.status for row in rows] == [CallStatus.REFUSED, CallStatus.ANSWERED, CallStatus.CACHED]
    paid = rows[1]
    assert (paid.operation, paid.model, paid.provider) == ("node.draft", "claude-sonnet-4-5", "openai")
    assert (paid.stage, paid.node_id, paid.micro_usd, paid.cached_tokens) == ("Stage_1", "n7", PRICE, 100)
    assert read_ledger(path).operations()["node.draft"].calls == 1


# ── what reaches the provider ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wire", WIRES)
def test_pictures_reach_a_model_that_reads_them(make_client: MakeClient, server, wire: str) -> None:
    picture = Image("image/png", b"\x89PNG picture")
    asked = question(27, messages=(ChatMessage("user", "What is this?", (picture,)),))
    server.replay.cassettes.add(cassette(asked))
    assert make_client(wire).complete(asked).value["plan"] == "fit a line"
    other = question(27, messages=(ChatMessage("user", "What is this?", (Image("image/png", b"other"),)),))
    with pytest.raises(RunError, match="no cassette"):
        make_client(wire).complete(other)


def test_pictures_are_left_out_for_a_model_that_reads_none(make_client: MakeClient, server) -> None:
    asked = question(28, messages=(ChatMessage("user", "What is this?", (Image("image/png", b"picture"),)),))
    plain = question(28, messages=(ChatMessage("user", "What is this?\n[1 pictures left out]"),))
    server.replay.cassettes.add(cassette(plain, model="own-model"))
    client = make_client(model="own-model", caps=SpendCaps())
    assert client.complete(asked).value["plan"] == "fit a line"


def test_models_are_chosen_by_request_operation_family_and_default(make_client: MakeClient, server) -> None:
    for model in ("a", "b", "c"):
        server.replay.cassettes.add(cassette(question(29), model=model))
    client = make_client(caps=SpendCaps(), models={"node": "a", "node.draft": "b"})
    assert client.complete(question(29)).model == "b"
    assert client.complete(question(29, model="c")).model == "c"
    assert make_client(caps=SpendCaps(), models={"node": "a"}).complete(question(29)).model == "a"
    with pytest.raises(RunError, match="no model"):
        make_client(model=None).complete(question(29))


def test_the_key_is_in_no_file_and_no_log(
    make_client: MakeClient, replay: Replay, server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        client = make_client("anthropic")
        client.complete(question(30))
        for kind in (ModelFaultKind.AUTH, ModelFaultKind.SERVER_ERROR):
            replay.faults.replace([ModelFault(kind, count=0)])
            with pytest.raises(RunError) as caught:
                client.complete(question(31))
            assert KEY not in repr(caught.value)
    assert KEY not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_message_of_the_server_that_quotes_the_key_is_masked(make_client: MakeClient) -> None:
    """The replay server names the model in its message: here the model is called like the key."""
    with pytest.raises(RunError, match=r"no cassette for node.draft of \*\*\*") as caught:
        make_client(model=KEY, caps=SpendCaps()).complete(question(0))
    assert KEY not in repr(caught.value)
    other = "sk-proj-ABCDEFGHIJ"
    with pytest.raises(RunError) as caught:
        make_client(model=other, caps=SpendCaps()).complete(question(0))
    assert other not in repr(caught.value), "a part of another key, by its form"


def test_a_schema_with_an_open_object_is_put_into_the_prompt(
    make_client: MakeClient, server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that enforces schemas closes objects: it would answer with an empty one."""
    from pod_worker.llm.providers import openai_chat

    sent = []

    def encode(request):
        sent.append(real_encode(request))
        return sent[-1]

    real_encode = openai_chat.encode_request
    monkeypatch.setattr(openai_chat, "encode_request", encode)
    open_schema = {"type": "object", "properties": {"plan": {}, "code": {}, "values": {"type": "object"}}}
    client = make_client(output="json_schema")
    client.complete(question(32, schema=open_schema))
    client.complete(question(32))
    formats = [body["response_format"]["type"] for body in sent]
    assert formats == ["json_object", "json_schema"]
    assert "JSON Schema" in sent[0]["messages"][-1]["content"]
    assert sent[1]["response_format"]["json_schema"]["strict"] is True
    assert "minLength" not in repr(sent[1])


def test_texts_that_utf8_cannot_encode_are_sent_and_kept(make_client: MakeClient, server) -> None:
    asked = question(34, messages=(ChatMessage("user", "output: \ud800"),))
    server.replay.cassettes.add(
        cassette(replace(asked, messages=(ChatMessage("user", "output: ?"),)), '{"plan": "\\ud800", "code": "é"}')
    )
    assert make_client().complete(asked).value == {"plan": "?", "code": "é"}
    assert make_client().complete(asked).is_cached


def test_an_answer_is_on_disk_before_it_is_used(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def record(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr("pod_worker.llm.response_cache.os.fsync", record)
    client = make_client()
    synced.clear()
    client.complete(question(35))
    reserved, entry, folder, settled = synced
    assert (reserved, folder, settled) == ("ledger.ndjson", "cache", "ledger.ndjson")
    assert entry.startswith(".")


@pytest.mark.timeout(20)  # otherwise the last call waits for ever
def test_a_defect_of_a_wire_leaves_no_one_waiting(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(caps=SpendCaps(calls=2))
    monkeypatch.setattr("pod_worker.llm.providers.openai_chat.encode_request", lambda request: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        client.complete(question(39))
    monkeypatch.undo()
    assert client.complete(question(39)).value["plan"] == "fit a line"
    with pytest.raises(RunError, match="2 of 2 model calls"):
        client.complete(question(38))


def test_usage_of_both_wires_is_the_same() -> None:
    from pod_worker.llm.providers import anthropic_messages, openai_chat

    openai = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    anthropic = {
        "input_tokens": 5,
        "output_tokens": 2,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 1,
    }
    assert openai_chat.decode_usage(openai) == anthropic_messages.decode_usage(anthropic) == TokenUsage(10, 2, 4)
    assert openai_chat.decode_usage(None) is anthropic_messages.decode_usage({}) is None
