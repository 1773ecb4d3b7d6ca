"""Loads tokenizer and base model from a local folder, and puts the adapter on it.

The base model's weights are frozen; only the adapter's can be trained. A model that cannot be loaded ends the run
with one sentence: INVALID_INPUT for the model's files, ENVIRONMENT for this machine's libraries. Code that comes
with a model is never executed.
"""

from __future__ import annotations

import pickle
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
from pod_worker.training.data.masks import Tokenizer
from pod_worker.training.hardware import ExecutionPlan
from pod_worker.training.params import TrainingParams

# What the loaders raise for files that are damaged, incomplete or of another kind; RuntimeError for weights whose
# sizes differ from the configuration.
LOAD_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, ImportError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_tokenizer(folder: Path, name: str) -> Tokenizer:
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except LOAD_ERRORS as error:
        raise _tokenizer_failure(error, folder, name) from error
    if not getattr(tokenizer, "is_fast", False):
        raise _invalid(f"model {name!r} has no fast tokenizer (tokenizer.json), which exact loss masks need")
    return tokenizer


def load_model(folder: Path, params: TrainingParams, execution: ExecutionPlan) -> torch.nn.Module:
    """The frozen base model with a fresh adapter, on its device.

    The adapter's start depends on the seed alone.
    """
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
    """Weights under the names that peft reads, and the adapter's configuration.

    `peft.PeftModel.from_pretrained` loads them.
    """
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    # Sets have no order of their own; the same training must leave the same bytes.
    ordered = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(config.items())}
    return {name: weight.detach().contiguous().cpu() for name, weight in weights.items()}, ordered


def _load_base(folder: Path, params: TrainingParams, execution: ExecutionPlan) -> torch.nn.Module:
    options: dict[str, Json] = {
        "dtype": DTYPES[execution.precision],
        "attn_implementation": execution.attention,
        "trust_remote_code": False,
    }
    if params.method != "lora":
        options["quantization_config"] = _quantization(params, execution)
    if params.method != "lora" or execution.device == "cuda":
        options["device_map"] = {"": 0 if execution.device == "cuda" else "cpu"}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except LOAD_ERRORS as error:
        raise load_failure(error, f"model {params.model!r}") from error
    if missing := sorted(found["missing_keys"]):
        raise _invalid(
            f"model {params.model!r} lacks {len(missing)} weights ({', '.join(missing[:3])} ...), "
            "so training would start from random ones: give a complete causal language model"
        )
    _keep_weights_as_loaded(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def _keep_weights_as_loaded(model: torch.nn.Module) -> None:
    """Evaluate 4-bit layers on a CPU without repacking them.

    On some CPUs bitsandbytes repacks a 4-bit layer the first time it is evaluated, for good, and the product
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
    linear = (name for name, layer in base.named_modules() if isinstance(layer, torch.nn.Linear))
    names = sorted({name.rpartition(".")[2] for name in linear})
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
        raise _invalid(
            f"target_modules {params.target_modules!r} cannot be used with {params.model!r} "
            f"({_first_line(error)}): use some of {', '.join(names)}"
        ) from error


@contextmanager
def _without_bitsandbytes(is_needless: bool) -> Iterator[None]:
    """Keep peft from importing bitsandbytes, which imports torch's compiler: 1.2 s.

    It does so whenever bitsandbytes is installed.

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


def _tokenizer_failure(error: Exception, folder: Path, name: str) -> RunError:
    """For most damages the library's first line names no file."""
    what, file = f"the tokenizer of model {name!r}", folder / "tokenizer.json"
    is_about_files = not isinstance(error, ImportError) and "trust_remote_code" not in str(error)
    if is_about_files and not file.is_file():
        return _invalid(f"{what} cannot be loaded: {file} is missing. Copy it from the model's source.")
    return load_failure(error, f"{what} ({file.name})" if is_about_files else what)


def load_failure(error: Exception, what: str) -> RunError:
    """The failure with its cause and fix.

    torch's own errors about the device are no fault of the files.
    """
    text = str(error)
    if isinstance(error, ImportError):
        return RunError(
            FailureCode.ENVIRONMENT,
            f"{what} needs a library that this machine lacks or has too old: {_first_line(error)}. "
            "Install what the message names on the pod (scripts/init_runpod.sh), or use another pod.",
        )
    if isinstance(error, RuntimeError) and "CUDA" in text:
        return RunError(FailureCode.GPU_ERROR, f"{what} could not be moved to the GPU: {_first_line(error)}")
    if "trust_remote_code" in text:
        return _invalid(f"{what} needs code of its own, which pod_worker does not execute: use a model without it")
    if "ignore_mismatched_sizes" in text or "size mismatch" in text:
        return _invalid(f"{what} cannot be loaded: its weights and its config.json have different sizes")
    if isinstance(error, pickle.UnpicklingError):
        return _invalid(f"{what} has pickled weights that may execute code: convert them to safetensors")
    return _invalid(f"{what} cannot be loaded: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _invalid(message: str) -> RunError:
    return RunError(FailureCode.INVALID_INPUT, message)
