"""Turns rows into token ids and says which tokens the model is trained on.

In a conversation only what the assistant wrote bears loss, turn by turn. The spans come from the template's own
`{% generation %}` markers where it has them, else from rendering every prefix of the conversation; a template
whose spans cannot be found exactly is refused, never approximated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy
from jinja2 import TemplateError
from numpy.typing import NDArray

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.training.data.rows import Completion, Conversation, DatasetRow, Text

ROWS_BETWEEN_CHECKS = 256

Span: TypeAlias = tuple[int, int]  # half-open, in characters


class Tokenizer(Protocol):
    """The part of a fast Hugging Face tokenizer that is used here."""

    chat_template: str | None
    eos_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool = ...) -> Json: ...
    def decode(self, ids: list[int], **options: bool) -> str: ...
    def apply_chat_template(self, messages: Sequence[Json], **options: Json) -> Json: ...


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence for the model.

    `loss_mask[0]` is always False: nothing comes before the first token.
    """

    tokens: NDArray[numpy.int32]
    loss_mask: NDArray[numpy.bool_]  # as long as `tokens`

    @property
    def loss_tokens(self) -> int:
        return int(self.loss_mask.sum())

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class EncodedDataset:
    """Examples, and what happened on the way to them."""

    examples: list[Example]
    rows: int = 0
    truncated: int = 0  # examples cut to max_length
    lost_tokens: int = 0  # loss-bearing tokens that the cut took
    dropped: int = 0  # examples with no loss-bearing token left
    split: int = 0  # conversations that became one example per assistant turn
    conversations: int = 0  # examples that came from a conversation
    unended: int = 0  # of those, the ones whose answers hold no end token

    @property
    def loss_tokens(self) -> int:
        return sum(example.loss_tokens for example in self.examples)


class LossMaskError(Exception):
    """This row's loss positions cannot be found exactly.

    The text says why and what to do.
    """


def encode(
    rows: Iterable[DatasetRow],
    tokenizer: Tokenizer,
    max_length: int,
    check_stop: Callable[[], None] = lambda: None,
) -> EncodedDataset:
    """Encode all rows.

    `check_stop` is called between rows, because a large data set takes minutes.

    Raises RunError(INVALID_INPUT) naming the row whose mask cannot be exact, and what `check_stop` raises.
    """
    done = EncodedDataset([])
    ends = _end_tokens(tokenizer)
    for row in rows:
        done.rows += 1
        if done.rows % ROWS_BETWEEN_CHECKS == 0:
            check_stop()
        try:
            examples = list(_examples(row, tokenizer))
        except LossMaskError as error:
            raise RunError(FailureCode.INVALID_INPUT, f"{row.location}: {error}") from None
        done.split += len(examples) > 1
        for example in examples:
            if isinstance(row.content, Conversation):
                done.conversations += 1
                done.unended += not ends.intersection(example.tokens[example.loss_mask].tolist())
            _keep(done, example, max_length)
    return done


def _end_tokens(tokenizer: Tokenizer) -> set[int]:
    """Every special token.

    Templates end a turn with one, and it need not be the tokenizer's own end token.
    """
    special = set(tokenizer.all_special_ids)
    return special if tokenizer.eos_token_id is None else special | {tokenizer.eos_token_id}


def _keep(done: EncodedDataset, example: Example, max_length: int) -> None:
    kept = Example(example.tokens[:max_length], example.loss_mask[:max_length])
    if len(example) > max_length:
        done.truncated += 1
        done.lost_tokens += example.loss_tokens - kept.loss_tokens
    if kept.loss_tokens:
        done.examples.append(kept)
    else:
        done.dropped += 1


def _examples(row: DatasetRow, tokenizer: Tokenizer) -> Iterator[Example]:
    match row.content:
        case Conversation() as conversation:
            yield from _from_conversation(conversation, tokenizer)
        case Completion(prompt, completion):
            text = prompt + completion
            yield _with_end(tokenizer, *_tokenize(tokenizer, text, [(len(prompt), len(text))], special=True))
        case Text(text):
            yield _with_end(tokenizer, *_tokenize(tokenizer, text, [(0, len(text))], special=True))


def _from_conversation(conversation: Conversation, tokenizer: Tokenizer) -> Iterator[Example]:
    template = tokenizer.chat_template
    if not template:
        raise LossMaskError(
            "the model's tokenizer has no chat template: use a chat model, or rows of 'prompt' and 'completion'"
        )
    if isinstance(template, str) and re.search(r"\{%-?\s*generation\s*-?%\}", template):
        yield _by_markers(conversation, tokenizer)
        return
    rendered, spans, is_stable = _by_prefixes(conversation, tokenizer)
    if is_stable:
        yield _example(*_tokenize(tokenizer, rendered[-1], spans, special=False))
        return
    # The template rewrites earlier turns (some drop the reasoning). What the model will be shown at each turn is
    # the rendering up to that turn, so each assistant turn becomes an example of its own.
    for text, span in zip(rendered, spans, strict=True):
        yield _example(*_tokenize(tokenizer, text, [span], special=False))


def _by_markers(conversation: Conversation, tokenizer: Tokenizer) -> Example:
    encoded = _apply_template(
        tokenizer, conversation, conversation.messages, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = [bool(each) for each in encoded["assistant_masks"]]
    if not any(mask):
        raise LossMaskError("the chat template's {% generation %} block marks nothing in this conversation")
    return _example(list(encoded["input_ids"]), mask)


def _by_prefixes(conversation: Conversation, tokenizer: Tokenizer) -> tuple[list[str], list[Span], bool]:
    """The rendering up to each assistant turn, and that turn's span in it.

    It also says whether the last rendering holds them all.
    """
    rendered: list[str] = []
    spans: list[Span] = []
    messages = conversation.messages
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        through = _render(tokenizer, conversation, messages[: position + 1])
        if position:
            before = _render(tokenizer, conversation, messages[:position], prompt=True)
        else:
            before = _opening(tokenizer, conversation, through)
        if not through.startswith(before) or len(through) == len(before):
            raise LossMaskError(
                "the chat template has no {% generation %} markers and does not render message "
                f"{position} as a continuation of its generation prompt, so the loss mask cannot be exact: "
                "give the tokenizer a template with markers, or rows of 'prompt' and 'completion'"
            )
        rendered.append(through)
        spans.append((len(before), len(through)))
    return rendered, spans, all(rendered[-1].startswith(text) for text in rendered)


def _opening(tokenizer: Tokenizer, conversation: Conversation, through: str) -> str:
    """What precedes the answer of a conversation that the assistant begins.

    No template renders an empty conversation, so the generation prompt is taken from one with a user's message.
    All of `through`, which leaves no answer, where the start of the answer cannot be found exactly.
    """
    user = ({"role": "user", "content": "text"},)
    asked = _render(tokenizer, conversation, user)
    prompt = _render(tokenizer, conversation, user, prompt=True).removeprefix(asked)
    head, found, rest = through.partition(prompt) if prompt else ("", "", "")
    answer = str(conversation.messages[0].get("content") or "").strip()
    is_exact = bool(found) and prompt not in rest and rest.lstrip().startswith(answer)
    return head + found if is_exact else through


def _render(
    tokenizer: Tokenizer, conversation: Conversation, messages: Sequence[dict[str, Json]], *, prompt: bool = False
) -> str:
    return str(_apply_template(tokenizer, conversation, messages, tokenize=False, add_generation_prompt=prompt))


def _apply_template(
    tokenizer: Tokenizer, conversation: Conversation, messages: Sequence[dict[str, Json]], **options: Json
) -> Json:
    try:
        return tokenizer.apply_chat_template(list(messages), tools=list(conversation.tools) or None, **options)
    except (TemplateError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LossMaskError(
            f"the chat template refuses these messages ({error}): check their roles and their order"
        ) from error


def _tokenize(tokenizer: Tokenizer, text: str, spans: list[Span], special: bool) -> tuple[list[int], list[bool]]:
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    reaches = list(_reaches(encoded["offset_mapping"]))
    if any(start < edge < end for start, end in reaches for span in spans for edge in span):
        return _piecewise(tokenizer, text, spans, ids, special)
    return ids, [any(start >= low and low < end <= high for low, high in spans) for start, end in reaches]


def _reaches(offsets: Iterable[Span]) -> Iterator[Span]:
    """Characters each token stands for, with none between two tokens.

    Some tokenizers leave the space before a word out of the word's offsets; it belongs to the word's token.
    """
    last = 0
    for _, end in offsets:
        yield last, max(last, end)
        last = max(last, end)


def _piecewise(
    tokenizer: Tokenizer, text: str, spans: list[Span], whole: list[int], special: bool
) -> tuple[list[int], list[bool]]:
    """Encode the pieces apart where a token straddles a span's edge.

    They are apart when the model writes the answer.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for low, high, is_answer in _pieces(len(text), spans):
        piece = tokenizer(text[low:high], add_special_tokens=special and low == 0)["input_ids"]
        ids += piece
        mask += [is_answer] * len(piece)
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    if tokenizer.decode(ids, **options) != tokenizer.decode(whole, **options):
        raise LossMaskError(
            "a token reaches across the start of an answer and the tokenizer does not encode the parts alone; "
            "let the prompt end, or the answer begin, with other white space"
        )
    return ids, mask


def _pieces(length: int, spans: list[Span]) -> Iterator[tuple[int, int, bool]]:
    at = 0
    for low, high in spans:
        if at < low:
            yield at, low, False
        yield low, high, True
        at = high
    if at < length:
        yield at, length, False


def _with_end(tokenizer: Tokenizer, ids: list[int], mask: list[bool]) -> Example:
    """Close a plain row with the end token, which the model must learn to write."""
    end = tokenizer.eos_token_id
    if end is None:
        return _example(ids, mask)
    return _example(ids, [*mask[:-1], True]) if ids[-1:] == [end] else _example([*ids, end], [*mask, True])


def _example(ids: list[int], mask: list[bool]) -> Example:
    return Example(numpy.array(ids, numpy.int32), numpy.array([False, *mask[1:]], numpy.bool_))
