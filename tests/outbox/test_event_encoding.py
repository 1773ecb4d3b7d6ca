from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pod_worker.core.payload import (
    LOG_MESSAGE_BYTES,
    PAYLOADS,
    ArtifactDetected,
    IdeationGenerated,
    NodeCompleted,
    RunFailed,
    RunHeartbeat,
    RunLog,
    RunStatusChanged,
    StageCompleted,
    StageMetric,
    StageProgress,
)
from pod_worker.outbox.event_encoding import EncodingError, encode_data, replacement_log, truncate_bytes
from tests.outbox.payloads import example


def data_of(payload):
    return json.loads(encode_data(payload), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_none_is_left_out_and_reserved_words_get_their_name_back():
    assert data_of(RunStatusChanged(to="RUNNING", from_="QUEUED")) == {"to": "RUNNING", "from": "QUEUED"}
    assert data_of(RunHeartbeat()) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"StageMetric: field value is -?(nan|inf)"):
        encode_data(StageMetric(stage="training", name="loss", value=value))
    with pytest.raises(EncodingError, match=r"field summary\.losses\[1\]\.last"):
        encode_data(StageCompleted(stage="training", summary={"losses": [1, {"last": value}]}))


@pytest.mark.parametrize(
    ("summary", "field"),
    [
        ({"path": Path("/x")}, "summary.path"),
        ({"big": 1 << 63}, "summary.big"),
        ({"set": {1}}, "summary.set"),
        ({"a": {None: 1}}, "summary.a"),
        ({"a": b"bytes"}, "summary.a"),
    ],
)
def test_what_is_not_json_is_refused_by_name(summary, field):
    with pytest.raises(EncodingError) as caught:
        encode_data(StageCompleted(stage="s", summary=summary))
    assert caught.value.field == field


def test_a_required_value_that_is_none_is_refused_by_name():
    with pytest.raises(EncodingError, match="field code is None"):
        encode_data(RunFailed(code=None, message="m"))


def test_a_value_that_holds_itself_is_refused():
    loop: dict[str, object] = {}
    loop["again"] = loop
    with pytest.raises(EncodingError, match="nested deeper"):
        encode_data(StageCompleted(stage="s", summary=loop))


def test_scalars_of_other_libraries_and_enums_become_plain():
    class Scalar:  # as numpy's and torch's: item() gives the Python number
        size = 1

        def item(self) -> float:
            return 0.5

    class Word(Enum):
        FAST = "fast"

    class Real(float):
        pass

    assert data_of(StageMetric(stage="s", name="n", value=Scalar())) == {"stage": "s", "name": "n", "value": 0.5}
    assert data_of(StageCompleted(stage="s", summary={"how": Word.FAST}))["summary"] == {"how": "fast"}
    assert data_of(StageMetric(stage="s", name="n", value=Real(2)))["value"] == 2.0


def test_a_file_name_that_is_not_utf8_is_spelled_out():
    assert data_of(ArtifactDetected(path="plot\udcff.png"))["path"] == "plot\\udcff.png"
    assert data_of(IdeationGenerated(count=1, top_k=["\ud800"]))["top_k"] == ["\\ud800"]


def test_a_long_message_is_cut_and_says_so():
    for message in ("x" * 100_000, "é" * 70_000, "\U0001f600" * 20_000):
        sent = data_of(RunLog(message=message))["message"]
        assert LOG_MESSAGE_BYTES - 8 < len(sent.encode()) <= LOG_MESSAGE_BYTES
        assert sent.endswith(f" [cut: {len(message.encode())} bytes, 65536 allowed]")
    fits = "é" * (LOG_MESSAGE_BYTES // 2)
    assert data_of(RunLog(message=fits))["message"] == fits


def test_a_log_is_never_lost_for_its_decoration():
    log = data_of(RunLog(message=404, level="critical", kv={"loss": float("nan"), "at": Path("/x"), "n": 1}))
    assert log == {"message": "404", "level": "error", "kv": {"loss": "nan", "at": "PosixPath('/x')", "n": 1}}
    assert data_of(RunLog(message="m", level="notice"))["level"] == "info"


def test_the_stand_in_names_the_field_and_keeps_what_was_to_be_said():
    metric = StageMetric(stage="training", name="loss", value=float("nan"), step=7)
    with pytest.raises(EncodingError) as caught:
        encode_data(metric)
    log = data_of(replacement_log(metric, caught.value))
    assert log["level"] == "warn"
    assert log["message"].startswith("ai.run.stage_metric was not recorded: StageMetric: field value is nan")
    assert log["kv"] == {
        "stage": "training",
        "name": "loss",
        "value": "nan",
        "step": 7,
        "epoch": None,
        "unit": None,
    }


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(40, 80))
def test_cut_text_is_valid_and_within_the_limit(text, limit):
    assert len(truncate_bytes(text, limit).encode()) <= max(
        limit, len(text.encode()) if len(text.encode()) <= limit else 0
    )


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(_json)
def test_either_exactly_what_was_given_or_a_refusal(value):
    payload = StageCompleted(stage="s", summary={"value": value})
    try:
        sent = data_of(payload)["summary"]["value"]
    except EncodingError:
        with pytest.raises(ValueError):
            json.dumps(value, allow_nan=False)
    else:
        assert json.dumps(sent) == json.dumps(value) or "\\ud" in json.dumps(value)


@pytest.mark.parametrize("kind", PAYLOADS.values(), ids=PAYLOADS)
def test_every_payload_is_read_back_by_its_schema(kind):
    """What the emitter writes is what ingest decodes: the same dataclass, field by field."""
    payload = example(kind)
    data = data_of(payload)
    if "from" in data:
        data["from_"] = data.pop("from")
    assert msgspec.convert(data, kind) == payload


def test_a_metric_may_be_text_or_number():
    assert data_of(NodeCompleted(stage="s", node_id="n", metric="0.9 (max)"))["metric"] == "0.9 (max)"
    assert data_of(StageProgress(stage="s", progress=1, best_metric=0.9))["best_metric"] == 0.9
