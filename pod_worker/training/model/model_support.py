"""What a model family can do: attention implementations, packed rows.

It also says whether packed rows stay apart.

Both are asked of the model, not of a list of names: the first of its class, the second of a forward pass.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from pod_worker.core.run import Json
from pod_worker.training.hardware import ModelSupport
from pod_worker.training.model.base_model import LOAD_ERRORS, load_failure

PROBE_TOKENS = 12  # in each of the two rows of a probe
# In units of the precision and the largest logit. Masked positions contribute exactly nothing; a row alone and the
# same row in a pack go through kernels of another shape.
LEAK_TOLERANCE, EQUAL_TOLERANCE = 4, 1000


def read_support(folder: Path, name: str) -> ModelSupport:
    """Raises RunError(INVALID_INPUT) for what is no causal language model.

    That is: what transformers cannot load as one.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except LOAD_ERRORS as error:
        raise load_failure(error, f"model {name!r}") from error
    if isinstance(model_class, tuple):
        model_class = model_class[0]
    return ModelSupport(
        str(getattr(config, "model_type", "")),
        bool(getattr(model_class, "_supports_sdpa", False)),
        # The class speaks for its family; with ALiBi its attention refuses FlashAttention at the first step.
        bool(getattr(model_class, "_supports_flash_attn", False)) and not getattr(config, "alibi", False),
    )


def packing_problem(model: torch.nn.Module) -> str | None:
    """Why rows laid end to end would not be trained as rows alone; None when they are.

    Two probes of a pack of two rows, in inference mode. The second row's logits must not change with the content
    of the first row, and must equal the logits of the second row alone.
    """
    weight = model.get_input_embeddings().weight
    vocabulary, device = int(weight.shape[0]), weight.device
    draw = torch.Generator().manual_seed(0)
    first, other, second = (
        torch.randint(0, vocabulary, (1, PROBE_TOKENS), generator=draw).to(device) for _ in range(3)
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = _second_row(model, first, second)
            changed = _second_row(model, other, second)
            alone = _logits(model, second)
    except TypeError:
        return "the model takes no position ids"
    finally:
        model.train(was_training)
    unit = torch.finfo(weight.dtype).eps * packed.abs().max().item()
    if (packed - changed).abs().max().item() > LEAK_TOLERANCE * unit:
        return "its attention crosses from one row into the next"
    difference = (packed - alone).abs().max().item()
    if difference > min(EQUAL_TOLERANCE * unit, 0.25):
        return f"a row in a pack gets other logits than alone (largest difference {difference:.2g})"
    return None


def _second_row(model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    places = torch.arange(PROBE_TOKENS, device=second.device)[None]
    logits = _logits(model, torch.cat([first, second], 1), position_ids=torch.cat([places, places], 1))
    return logits[:, PROBE_TOKENS:]


def _logits(model: torch.nn.Module, tokens: torch.Tensor, **inputs: Json) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False, **inputs).logits.float()
    return logits
