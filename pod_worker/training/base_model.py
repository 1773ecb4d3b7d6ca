"""Loads tokenizer and base model from a local folder, and puts the adapter on it.

The base model's weights are frozen; only the adapter's can be trained. What cannot be loaded is the input's
fault and is said in one sentence, without a traceback from inside a library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.training.hardware import ExecutionPlan
from pod_worker.training.masks import Tokenizer
from pod_worker.training.params import TrainingParams

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_tokenizer(folder: Path, name: str) -> Tokenizer:
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _invalid(f"the tokenizer of model {name!r} cannot be loaded: {_first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise _invalid(f"model {name!r} has no fast tokenizer (tokenizer.json), which exact loss masks need")
    return tokenizer


def load_model(folder: Path, params: TrainingParams, execution: ExecutionPlan) -> torch.nn.Module:
    """The frozen base model with a fresh adapter, on its device. The adapter's start depends on the seed alone."""
    base = _load_base(folder, params, execution)
    torch.manual_seed(params.seed)
    model = _adapt(base, params)
    if params.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if model.get_output_embeddings() is None:
        raise _invalid(f"model {params.model!r} has no output head: it is not a causal language model")
    return model


def check_vocabulary(tokenizer: Tokenizer, model: torch.nn.Module, name: str) -> None:
    known, highest = model.get_input_embeddings().num_embeddings, len(tokenizer) - 1  # type: ignore[arg-type]
    if highest >= known:
        raise _invalid(
            f"the tokenizer of model {name!r} has {highest + 1} tokens, the model knows {known}: they do not match"
        )


def adapter_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trainable weights by name: exactly what a training changes."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def exported_adapter(model: torch.nn.Module, base: str) -> tuple[dict[str, torch.Tensor], dict[str, Json]]:
    """Weights under the names that `peft.PeftModel.from_pretrained` reads, and the adapter's configuration."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    # Sets have no order of their own; the same training must leave the same bytes.
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(config.items())}
    return {name: weight.detach().contiguous().cpu() for name, weight in weights.items()}, ordered


def _load_base(folder: Path, params: TrainingParams, execution: ExecutionPlan) -> torch.nn.Module:
    options: dict[str, Json] = {"dtype": DTYPES[execution.precision], "attn_implementation": execution.attention}
    if params.method != "lora":
        options["quantization_config"] = _quantization(params, execution)
    if params.method != "lora" or execution.device == "cuda":
        options["device_map"] = {"": 0 if execution.device == "cuda" else "cpu"}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise _invalid(f"model {params.model!r} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise _invalid(
            f"model {params.model!r} lacks {len(missing)} weights ({', '.join(missing[:3])} ...), "
            "so training would start from random ones: give a complete causal language model"
        )
    _keep_weights_as_loaded(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def _keep_weights_as_loaded(model: torch.nn.Module) -> None:
    """On some CPUs bitsandbytes repacks a 4-bit layer the first time it is evaluated, for good, and the product
    for repacked weights has no gradient: training after an evaluation would go silently wrong (seen in 0.50).
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _quantization(params: TrainingParams, execution: ExecutionPlan) -> Json:
    from transformers.utils.quantization_config import BitsAndBytesConfig

    if params.method == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[execution.precision],
    )


def _adapt(base: torch.nn.Module, params: TrainingParams) -> torch.nn.Module:
    try:
        with _without_bitsandbytes(params.method == "lora"):
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(
                r=params.rank,
                lora_alpha=params.alpha,
                lora_dropout=params.dropout,
                target_modules=params.target_modules,
                task_type="CAUSAL_LM",
            )
            return get_peft_model(base, config)
    except ValueError as error:
        linear = (name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear))
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise _invalid(
            f"target_modules {params.target_modules!r} fit no layer of {params.model!r}: "
            f'use "all-linear" or some of {", ".join(names)}'
        ) from error


@contextmanager
def _without_bitsandbytes(is_needless: bool) -> Iterator[None]:
    """peft imports bitsandbytes whenever it is installed, and that imports torch's compiler: 1.2 s for nothing.

    A None in sys.modules is Python's own way to say that a module is not to be had.
    """
    if not is_needless or "bitsandbytes" in sys.modules:
        yield
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        is_bnb_available.cache_clear()
        is_bnb_4bit_available.cache_clear()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _invalid(message: str) -> RunError:
    return RunError(FailureCode.INVALID_INPUT, message)
