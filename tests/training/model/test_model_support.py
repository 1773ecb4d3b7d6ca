"""Tiny random models of many families: each is trained exactly or refused by name."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from benchmarks.gpu_check.tiny_models import FAMILIES, TARGETS, write_model
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.stages.finetune import FINETUNE
from pod_worker.training.data.demo_data import DemoData
from pod_worker.training.data.masks import Example, encode
from pod_worker.training.data.rows import read_rows
from pod_worker.training.hardware import Attention, Capabilities, ExecutionPlan, plan_execution
from pod_worker.training.library_logs import redirect_library_logs
from pod_worker.training.model.base_model import load_model, load_tokenizer
from pod_worker.training.model.loss import collate, loss_sum
from pod_worker.training.model.model_support import packing_problem, read_support
from pod_worker.training.params import parse
from tests.training.context import FolderContext

CPU = Capabilities("cpu", "CPU", has_bf16=False, has_varlen_kernel=False, has_bitsandbytes=True)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, material: DemoData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(family), family, material.model)


class quiet(warnings.catch_warnings):
    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")


@pytest.fixture
def loaded(family: str, folder: Path) -> Iterator[torch.nn.Module]:
    targets = TARGETS.get(family, "all-linear")
    params = parse({"model": str(folder), "dataset": "d", "rank": 4, "target_modules": targets})
    plan = plan_execution(params, CPU, read_support(folder, folder.name))
    with quiet(), redirect_library_logs(lambda _message, _level: None):
        yield load_model(folder, params, plan).eval()


def test_each_family_loads_with_an_attention_that_it_has(loaded: torch.nn.Module) -> None:
    assert next(loaded.parameters()).dtype is torch.float32


@pytest.mark.parametrize(("alibi", "has_flash"), [(True, False), (False, True)])
def test_flash_attention_is_not_promised_for_alibi(tmp_path: Path, alibi: bool, has_flash: bool) -> None:
    """transformers' Falcon raises for the two together, and only at the first forward pass on a GPU."""
    AutoConfig.for_model("falcon", **FAMILIES["falcon"] | {"alibi": alibi}).save_pretrained(tmp_path)
    assert read_support(tmp_path, "falcon").has_flash_attention is has_flash


def test_packed_rows_equal_rows_alone_or_packing_is_refused(
    family: str, loaded: torch.nn.Module, material: DemoData
) -> None:
    with quiet():
        problem = packing_problem(loaded)
        examples = encode(read_rows(material.dataset, limit=4), load_tokenizer(material.model, "t"), 64).examples
        differs = problem is None and _packed_differs(loaded, examples)
    assert not differs
    assert (problem is None) == (family in {"llama", "qwen2", "qwen3", "gemma2", "gpt2", "falcon"}), problem


def _packed_differs(model: torch.nn.Module, examples: list[Example]) -> bool:
    alone = sum(loss_sum(model, collate([example], packed=False)).item() for example in examples)
    return abs(loss_sum(model, collate(examples, packed=True)).item() - alone) > 1e-4 * alone


class Places(torch.nn.Module):  # type: ignore[misc]
    """Each token's logits depend on the token and on its place in the input; no token sees another one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(32, 32)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def forward(
        self, input_ids: torch.Tensor, use_cache: bool, position_ids: torch.Tensor | None = None
    ) -> object:
        places = torch.arange(input_ids.shape[1])[None, :, None]
        return SimpleNamespace(logits=self.embedding(input_ids) + places)


class NoPlaces(Places):
    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:  # type: ignore[override]
        return super().forward(input_ids, use_cache)


class FaintLeak(Places):
    """Passes on a hundred-thousandth of all earlier tokens: too little to differ from the row alone."""

    def forward(
        self, input_ids: torch.Tensor, use_cache: bool, position_ids: torch.Tensor | None = None
    ) -> object:
        embedded = self.embedding(input_ids)
        return SimpleNamespace(logits=embedded + 1e-5 * embedded.cumsum(1))


def test_a_faint_leak_between_rows_is_seen() -> None:
    torch.manual_seed(0)
    assert packing_problem(FaintLeak()) == "its attention crosses from one row into the next"


def test_a_row_that_a_pack_only_shifts_is_refused_too() -> None:
    assert "other logits than alone" in (packing_problem(Places()) or "")


def test_a_model_without_position_ids_is_not_packed() -> None:
    assert packing_problem(NoPlaces()) == "the model takes no position ids"


def test_a_family_that_mixes_packed_rows_is_refused_before_the_first_step(
    tmp_path: Path, material: DemoData, params: Callable[..., dict[str, Json]]
) -> None:
    model = write_model(tmp_path / "opt", "opt", material.model)
    context = FolderContext(tmp_path / "run", params(model=str(model), packing="packed"))
    with pytest.raises(RunError, match="Use packing=group") as caught:
        FINETUNE.run(context)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_layers_that_peft_refuses_are_named(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mamba", vocab_size=64, **FAMILIES["mamba"])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=r"out_proj.*use some of .*in_proj") as caught:
        load(tmp_path, "eager")
    assert caught.value.code is FailureCode.INVALID_INPUT


def copied(material: DemoData, folder: Path) -> Path:
    folder.mkdir()
    for path in material.model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load(folder: Path, attention: Attention = "sdpa") -> None:
    plan = ExecutionPlan("cpu", "fp32", False, attention, ())
    with quiet(), redirect_library_logs(lambda _message, _level: None):
        load_model(folder, parse({"model": str(folder), "dataset": "d"}), plan)


def test_a_model_with_code_of_its_own_is_refused_without_executing_it(tmp_path: Path, material: DemoData) -> None:
    folder = copied(material, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "executed"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    for attempt in (lambda: read_support(folder, "own"), lambda: load(folder)):
        with pytest.raises(RunError, match="does not execute") as caught:
            attempt()
        assert caught.value.code is FailureCode.INVALID_INPUT
    assert not mark.exists()


def test_weights_of_another_size_are_named(tmp_path: Path, material: DemoData) -> None:
    folder = copied(material, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(RunError, match=r"weights and its config.json have different sizes") as caught:
        load(folder)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_pickled_weights_that_execute_code_are_refused(tmp_path: Path, material: DemoData) -> None:
    folder = copied(material, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(RunError) as caught:
        load(folder)
    assert caught.value.code is FailureCode.INVALID_INPUT
    assert "pickled" in caught.value.message


def test_a_library_that_is_too_old_is_no_fault_of_the_model(
    material: DemoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def need_torch(*_: object, **__: object) -> None:
        raise ImportError("LlamaForCausalLM requires PyTorch >= 2.6")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", need_torch)
    with pytest.raises(RunError, match=r"PyTorch >= 2\.6") as caught:
        load(material.model)
    assert caught.value.code is FailureCode.ENVIRONMENT
