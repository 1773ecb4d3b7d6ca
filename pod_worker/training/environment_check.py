"""Proves that this machine can train: one step of a tiny LoRA model.

Nothing is downloaded. `python -m pod_worker.training.environment_check [cpu|cuda]` prints the versions and exits
0, or prints one line and exits 1. Versions alone prove nothing: transformers imports with a torch that it cannot
use.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.metadata import version

FIX = (
    "Fix: use an image whose torch fits (RUNPOD_WORKER_IMAGE), or reinstall with `bash scripts/init_runpod.sh` "
    "(or `make train`) in a new .venv"
)


def main(arguments: Sequence[str]) -> int:
    try:
        device = check_training(arguments[0] if arguments else None)
    except Exception as error:  # any failure of any library is a fault of the environment here
        cause = " ".join(str(error).split())[:400] or "no message"
        print(f"this machine cannot train: {type(error).__name__}: {cause}. {FIX}", file=sys.stderr)
        return 1
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{versions}; one training step on {device}")
    return 0


def check_training(device: str | None = None) -> str:
    """One forward and backward pass; returns the device.

    Raises what the libraries raise.
    """
    import torch
    from transformers.utils.import_utils import is_torch_available

    if not is_torch_available():
        raise ImportError(f"transformers {version('transformers')} does not accept torch {version('torch')}")
    from peft import LoraConfig, get_peft_model
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM
    from transformers.models.llama.configuration_llama import LlamaConfig

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
    )
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config).to(device),
        LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    tokens = torch.arange(8, device=device)[None]
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    if not math.isfinite(loss.item()):
        raise ArithmeticError(f"the loss of a tiny model is {loss.item()} on {device}")
    return device


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
