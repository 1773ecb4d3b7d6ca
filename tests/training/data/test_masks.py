from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pod_worker.core.failure import DrainRequested, FailureCode, RunError
from pod_worker.training.data.demo_data import CHAT_TEMPLATE, DemoData
from pod_worker.training.data.masks import EncodedDataset, Example, Tokenizer, _reaches, encode
from pod_worker.training.data.rows import Completion, Content, Conversation, DatasetRow, Text
from pod_worker.training.model.base_model import load_tokenizer

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Drops the reasoning of every assistant turn but the last, as some reasoning models' templates do.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COUNTING = "{{ messages | length }} messages{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}"
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{{ m.content }}<|im_end|>{% endfor %}"
)
TURNS = Conversation(
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "def f(x)"},
        {"role": "assistant", "content": "Return  x.\n\nTwice, naïvely 🎈"},
        {"role": "user", "content": "assistant\nWhy?"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": " leading and trailing "},
        {"role": "user", "content": "unanswered"},
    )
)


@pytest.fixture
def tokenizer(material: DemoData) -> Tokenizer:
    return load_tokenizer(material.model, "tiny")


def one(tokenizer: Tokenizer, content: Content, max_length: int = 10_000) -> EncodedDataset:
    return encode([DatasetRow("data.jsonl:7", content)], tokenizer, max_length)


def learned(tokenizer: Tokenizer, example: Example) -> list[str]:
    """The text of each unbroken stretch of loss-bearing tokens."""
    places = groupby(range(len(example)), lambda place: bool(example.loss_mask[place]))
    runs = [[int(example.tokens[place]) for place in run] for bears, run in places if bears]
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def whole(tokenizer: Tokenizer, example: Example) -> str:
    return tokenizer.decode(example.tokens.tolist(), skip_special_tokens=False)


def refusal(tokenizer: Tokenizer, content: Content, max_length: int = 10_000) -> str:
    with pytest.raises(RunError) as caught:
        one(tokenizer, content, max_length)
    assert caught.value.code is FailureCode.INVALID_INPUT
    return caught.value.message


def test_exactly_what_the_assistant_wrote_bears_loss_turn_by_turn(tokenizer: Tokenizer) -> None:
    (example,) = one(tokenizer, TURNS).examples
    answers = [message["content"] for message in TURNS.messages if message["role"] == "assistant"]
    assert learned(tokenizer, example) == [f"{answer}<|im_end|>\n" for answer in answers]
    rendered = tokenizer.apply_chat_template(list(TURNS.messages[:-1]), tokenize=False)
    assert whole(tokenizer, example) == rendered


def test_the_tokens_are_those_of_the_whole_text(tokenizer: Tokenizer) -> None:
    (example,) = one(tokenizer, TURNS).examples
    rendered = tokenizer.apply_chat_template(list(TURNS.messages[:-1]), tokenize=False)
    assert example.tokens.tolist() == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_markers_and_prefixes_agree(tokenizer: Tokenizer) -> None:
    by_prefix = one(tokenizer, Conversation(TURNS.messages[:3])).examples[0]
    tokenizer.chat_template = MARKED
    by_marker = one(tokenizer, Conversation(TURNS.messages[:3])).examples[0]
    assert by_marker.tokens.tolist() == by_prefix.tokens.tolist()
    # The marked template leaves the line break after the end token to the template.
    assert learned(tokenizer, by_marker) == [text.rstrip("\n") for text in learned(tokenizer, by_prefix)]


def test_a_template_that_rewrites_earlier_turns_gives_an_example_per_turn(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = FORGETFUL
    thinking = Conversation(
        (
            {"role": "user", "content": "a?"},
            {"role": "assistant", "content": "<think>hm</think>A"},
            {"role": "user", "content": "b?"},
            {"role": "assistant", "content": "<think>so</think>B"},
        )
    )
    encoded = one(tokenizer, thinking)
    assert encoded.split == 1
    assert [learned(tokenizer, example) for example in encoded.examples] == [
        ["<think>hm</think>A<|im_end|>\n"],
        ["<think>so</think>B<|im_end|>\n"],
    ]
    assert "assistant\nA<|im_end|>" in whole(tokenizer, encoded.examples[1])  # as the model will see it


def test_a_template_without_exact_spans_is_refused_with_the_row(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = COUNTING
    message = refusal(tokenizer, TURNS)
    assert message.startswith("data.jsonl:7: ")
    assert "cannot be exact" in message


def test_a_template_that_refuses_the_messages_is_quoted(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = STRICT
    assert "no system role here" in refusal(tokenizer, TURNS)


def test_conversations_need_a_template(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = None
    assert "no chat template" in refusal(tokenizer, TURNS)


def test_a_completion_learns_itself_and_the_end(tokenizer: Tokenizer) -> None:
    (example,) = one(tokenizer, Completion("def f():", " Return nothing.")).examples
    assert learned(tokenizer, example) == [" Return nothing.<|im_end|>"]
    assert whole(tokenizer, example) == "def f(): Return nothing.<|im_end|>"


def test_a_token_across_the_edge_is_parted_as_it_will_be_when_the_model_answers(tokenizer: Tokenizer) -> None:
    (example,) = one(tokenizer, Completion("Return ", "the value")).examples
    assert learned(tokenizer, example) == ["the value<|im_end|>"]
    prompt = tokenizer("Return ", add_special_tokens=False)["input_ids"]
    assert example.tokens[: len(prompt)].tolist() == prompt
    joined = tokenizer("Return the value", add_special_tokens=False)["input_ids"]
    assert example.tokens[:-1].tolist() != joined  # or this test would show nothing


def test_text_learns_everything_but_its_first_token(tokenizer: Tokenizer) -> None:
    (example,) = one(tokenizer, Text("Return the value")).examples
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)
    assert whole(tokenizer, example).endswith("<|im_end|>")


def test_cutting_is_counted_and_rows_left_with_nothing_are_dropped(tokenizer: Tokenizer) -> None:
    rows = [DatasetRow("a:1", Completion("def f():", " Return")), DatasetRow("a:2", Completion("word " * 50, "x"))]
    encoded = encode(rows, tokenizer, 12)
    assert (encoded.rows, encoded.truncated, encoded.dropped) == (2, 1, 1)
    assert encoded.lost_tokens == 2
    assert len(encoded.examples) == 1
    assert one(tokenizer, Completion("word " * 50, "x"), 12).examples == []


contents = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(contents, contents), min_size=1, max_size=4))
def test_any_text_in_any_number_of_turns(pairs: list[tuple[str, str]], tiny: Tokenizer) -> None:
    messages = tuple(
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )
    (example,) = one(tiny, Conversation(messages)).examples
    assert learned(tiny, example) == [f"{answer}<|im_end|>\n" for _, answer in pairs]


def test_the_space_that_a_tokenizer_leaves_out_of_a_words_offsets_is_the_words() -> None:
    assert list(_reaches([(0, 0), (0, 3), (4, 7), (7, 8), (7, 8)])) == [(0, 0), (0, 3), (3, 7), (7, 8), (8, 8)]


@pytest.fixture(scope="module")
def tiny(material: DemoData) -> Tokenizer:
    loaded = load_tokenizer(material.model, "tiny")
    assert loaded.chat_template == CHAT_TEMPLATE
    return loaded


def test_a_large_data_set_hears_a_stop(tokenizer: Tokenizer) -> None:
    def stop() -> None:
        raise DrainRequested

    rows = [DatasetRow("a:1", Text("a"))] * 300
    with pytest.raises(DrainRequested):
        encode(rows, tokenizer, 10, stop)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, material: DemoData) -> None:
    (tmp_path / "config.json").write_bytes((material.model / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"tokenizer of model 'tiny' cannot be loaded: .*tokenizer.json is missing"):
        load_tokenizer(tmp_path, "tiny")


@pytest.mark.parametrize("kept_bytes", [0, 1000])
def test_a_damaged_tokenizer_is_refused_with_the_file(tmp_path: Path, material: DemoData, kept_bytes: int) -> None:
    for path in material.model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer.json").write_bytes((material.model / "tokenizer.json").read_bytes()[:kept_bytes])
    with pytest.raises(RunError, match=r"'tiny' \(tokenizer.json\) cannot be loaded: JSONDecodeError") as caught:
        load_tokenizer(tmp_path, "tiny")
    assert caught.value.code is FailureCode.INVALID_INPUT


ENDLESS = CHAT_TEMPLATE.replace("<|im_end|>", "")


def test_a_conversation_that_the_assistant_begins(tokenizer: Tokenizer) -> None:
    messages = ({"role": "assistant", "content": "Hello! "}, *TURNS.messages[1:3])
    (example,) = one(tokenizer, Conversation(messages)).examples
    assert learned(tokenizer, example) == ["Hello! <|im_end|>\n", "Return  x.\n\nTwice, naïvely 🎈<|im_end|>\n"]


def test_an_opening_that_cannot_be_found_exactly_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    message = refusal(tokenizer, Conversation(({"role": "assistant", "content": "Hello"},)))
    assert "cannot be exact" in message


@pytest.mark.parametrize("template", [MARKED, CHAT_TEMPLATE])
@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "user", "content": "raise"},
    ],
)
def test_an_error_of_the_template_names_the_row(
    tokenizer: Tokenizer, template: str, turn: dict[str, object]
) -> None:
    raising = "{% for m in messages %}{% if m.content.startswith('raise') %}{{ raise_exception('no') }}{% endif %}"
    tokenizer.chat_template = raising + "{% endfor %}" + template
    message = refusal(tokenizer, Conversation((turn, {"role": "assistant", "content": "a"})))
    assert message.startswith("data.jsonl:7: ")
    assert "chat template refuses" in message


@pytest.mark.parametrize(("template", "unended"), [(CHAT_TEMPLATE, 0), (ENDLESS, 1)])
def test_answers_without_an_end_token_are_counted(tokenizer: Tokenizer, template: str, unended: int) -> None:
    tokenizer.chat_template = template
    encoded = one(tokenizer, Conversation(TURNS.messages[:3]))
    assert (encoded.conversations, encoded.unended) == (1, unended)
