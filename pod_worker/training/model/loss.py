"""The loss of a batch, computed only where loss is borne.

The output head is the widest layer; it is given the hidden states of loss-bearing positions and no others, so
prompts and padding cost nothing there. Sums are over tokens; the caller, which knows the whole step, divides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from pod_worker.core.run import Json
from pod_worker.training.data.masks import Example


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Tokens and what they predict.

    `predicts` are places in the flattened `tokens` whose next token is `targets`; both of shape [N].
    """

    tokens: Tensor  # [rows, longest], or [1, all] when packed
    positions: Tensor | None  # like `tokens`; only when packed
    predicts: Tensor
    targets: Tensor

    def to(self, device: str) -> TokenBatch:
        positions = None if self.positions is None else self.positions.to(device)
        return TokenBatch(self.tokens.to(device), positions, self.predicts.to(device), self.targets.to(device))


def collate(examples: Sequence[Example], packed: bool) -> TokenBatch:
    if packed:
        tokens = numpy.concatenate([example.tokens for example in examples])[None].astype(numpy.int64)
        bears = numpy.concatenate([example.loss_mask for example in examples])[None]
        places = numpy.concatenate([numpy.arange(len(example)) for example in examples])[None]
        return _batch(tokens, bears, torch.from_numpy(places))
    # Padding lies to the right of causal attention: no real token sees it, so no mask is needed and torch's
    # fast causal kernel is used. What stands in it does not matter either.
    shape = (len(examples), max(len(example) for example in examples))
    tokens, bears = numpy.zeros(shape, numpy.int64), numpy.zeros(shape, numpy.bool_)
    for row, example in enumerate(examples):
        tokens[row, : len(example)] = example.tokens
        bears[row, : len(example)] = example.loss_mask
    return _batch(tokens, bears, None)


def _batch(tokens: numpy.ndarray, bears: numpy.ndarray, positions: Tensor | None) -> TokenBatch:
    targets = numpy.flatnonzero(bears)
    return TokenBatch(
        torch.from_numpy(tokens),
        positions,
        torch.from_numpy(targets - 1),
        torch.from_numpy(tokens.reshape(-1)[targets]),
    )


def loss_sum(model: torch.nn.Module, batch: TokenBatch) -> Tensor:
    """Negative log-likelihood of the loss-bearing tokens, summed, in float32.

    The result is a scalar with a gradient.
    """
    inputs: dict[str, Json] = {"input_ids": batch.tokens, "use_cache": False}
    if batch.positions is not None:
        inputs["position_ids"] = batch.positions
    with _head_sees_only(model, batch.predicts):
        logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), batch.targets, reduction="sum")


@contextmanager
def _head_sees_only(model: torch.nn.Module, places: Tensor) -> Iterator[None]:
    """Keep only these places of the last hidden state.

    A hook and not a call of the inner model: what a model does to its logits afterwards still happens.
    """

    def select(_head: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places][None], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
