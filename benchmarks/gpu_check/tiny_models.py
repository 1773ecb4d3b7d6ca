"""Tiny random models of many families, made here: shapes only, no file and no hub."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

from pod_worker.core.run import Json

_LLAMA: dict[str, Json] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 64, "max_position_embeddings": 256,
}  # fmt: skip
# transformers' model_type -> the settings that make it tiny.
FAMILIES: dict[str, dict[str, Json]] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _LLAMA | {"sliding_window": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "opt": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64,
        "word_embed_proj_dim": 32, "max_position_embeddings": 256,
    },
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 256},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip
# peft refuses the output projection of Mamba, whose kernels read its weights directly.
TARGETS: dict[str, list[str]] = {"mamba": ["in_proj", "x_proj"]}


def write_model(folder: Path, family: str, tokenizer: Path) -> Path:
    """A model of the family with random weights, and the tokenizer files of another model's folder."""
    import torch
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(family, vocab_size=vocabulary, **FAMILIES[family])
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for path in tokenizer.glob("token*"):
        shutil.copyfile(path, folder / path.name)
    return folder
