"""A small real data set and a tiny base model from the Python standard library.

Rows are signature → first paragraph of the docstring, as `messages`; the model is a Llama with random weights and
its own byte-level BPE tokenizer and chat template. Deterministic for one version of Python, and torch-free, so
that a demo can build it in about two seconds. The model has learned nothing: it is there to be trained, not used.
"""

from __future__ import annotations

import ast
import inspect
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

ROWS = 1200
VOCABULARY = 2048
LONGEST_DOCSTRING = 600  # characters
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Size of the model; the default has 0.9 million weights."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 384
    positions: int = 1024


@dataclass(frozen=True, slots=True)
class DemoData:
    dataset: Path
    model: Path
    rows: int


def build(folder: Path, rows: int = ROWS, seed: int = 0, shape: ModelShape = ModelShape()) -> DemoData:
    """Write `folder/docstrings.jsonl` and `folder/tiny-llama`.

    The same arguments give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(_pairs(rows))
    dataset = folder / "docstrings.jsonl"
    dataset.write_text("".join(f"{_row(signature, doc)}\n" for signature, doc in pairs), encoding="utf-8")
    model = folder / "tiny-llama"
    model.mkdir(exist_ok=True)
    _write_tokenizer(model, [f"{signature}\n{doc}" for signature, doc in pairs], shape)
    _write_weights(model, seed, shape)
    return DemoData(dataset, model, len(pairs))


def demo_params(material: DemoData) -> dict[str, Json]:
    """Parameters that make the held-out loss fall in ten seconds of one core."""
    return {
        "model": str(material.model),
        "dataset": str(material.dataset),
        "max_length": 256,
        "lr": 5e-3,
        "log_every": 5,
        "eval_every": 50,
        "checkpoint_every_steps": 25,
        "threads": 1,  # a model this small gains nothing from a second one, and loses much on a busy machine
    }


def _row(signature: str, doc: str) -> str:
    question = f"Document this Python function.\n{signature}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": doc}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _pairs(limit: int) -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    found = 0
    for path in _sources(library):
        for signature, doc in _functions(path):
            yield signature, doc
            found += 1
            if found == limit:
                return
    if not found:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"no Python sources with docstrings under {library}: this Python was installed without them; "
            "give a data set of your own",
        )


def _sources(library: Path) -> Iterator[Path]:
    """Single modules first, then the packages, without tests and installed packages."""
    packages = ("asyncio", "collections", "concurrent", "email", "http", "json", "logging", "unittest", "xml")
    yield from sorted(library.glob("*.py"))
    for package in packages:
        yield from sorted(path for path in (library / package).rglob("*.py") if "test" not in path.parts)


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    # Read with ast, never imported: importing runs code, and some modules open windows or browsers.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        doc = inspect.cleandoc(ast.get_docstring(node) or "").split("\n\n")[0].strip()
        if doc and len(doc) <= LONGEST_DOCSTRING:
            yield f"def {node.name}({ast.unparse(node.args)})", doc


def _write_tokenizer(folder: Path, texts: list[str], shape: ModelShape) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": END,
            "model_max_length": shape.positions,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _write_weights(folder: Path, seed: int, shape: ModelShape) -> None:
    from safetensors.numpy import save_file

    random = numpy.random.default_rng(seed)
    weights = {
        name: numpy.ones(size, numpy.float32)
        if len(size) == 1
        # Variance-preserving, so that an adapter has a signal to work with although nothing was learned.
        else (random.standard_normal(size, numpy.float32) * numpy.float32(size[1] ** -0.5))
        for name, size in _sizes(shape)
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(shape))


def _sizes(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, narrow = shape.hidden, shape.hidden // shape.heads * shape.key_value_heads
    yield "model.embed_tokens.weight", (VOCABULARY, wide)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (wide, wide)
        yield f"{prefix}.self_attn.k_proj.weight", (narrow, wide)
        yield f"{prefix}.self_attn.v_proj.weight", (narrow, wide)
        yield f"{prefix}.self_attn.o_proj.weight", (wide, wide)
        yield f"{prefix}.mlp.gate_proj.weight", (shape.intermediate, wide)
        yield f"{prefix}.mlp.up_proj.weight", (shape.intermediate, wide)
        yield f"{prefix}.mlp.down_proj.weight", (wide, shape.intermediate)
        yield f"{prefix}.input_layernorm.weight", (wide,)
        yield f"{prefix}.post_attention_layernorm.weight", (wide,)
    yield "model.norm.weight", (wide,)
    yield "lm_head.weight", (VOCABULARY, wide)


def _config(shape: ModelShape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
