from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pod_worker.core.failure import RunError
from pod_worker.training.data.demo_data import DemoData
from pod_worker.training.data.masks import Example, encode
from pod_worker.training.data.rows import read_rows
from pod_worker.training.hardware import ExecutionPlan
from pod_worker.training.library_logs import redirect_library_logs
from pod_worker.training.model.base_model import adapter_weights, load_model, load_tokenizer
from pod_worker.training.model.loss import collate, loss_sum
from pod_worker.training.params import parse

PLAIN = ExecutionPlan("cpu", "fp32", False, "sdpa", ())


def load(material: DemoData, **changes: object) -> torch.nn.Module:
    params = parse({"model": str(material.model), "dataset": "d", "rank": 4} | changes)
    with redirect_library_logs(lambda _message, _level: None):
        return load_model(material.model, params, PLAIN).eval()


@pytest.fixture(scope="module")
def model(material: DemoData) -> torch.nn.Module:
    return load(material)


@pytest.fixture(scope="module")
def examples(material: DemoData) -> list[Example]:
    return encode(read_rows(material.dataset, limit=6), load_tokenizer(material.model, "tiny"), 128).examples


def test_the_loss_is_that_of_all_logits_at_the_loss_bearing_places(
    model: torch.nn.Module, examples: list[Example]
) -> None:
    for example in examples:
        tokens = torch.from_numpy(example.tokens).long()[None]
        logits = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        each = -logits.gather(1, tokens[0, 1:, None])[:, 0]
        expected = each[torch.from_numpy(example.loss_mask[1:])].sum().item()
        assert loss_sum(model, collate([example], packed=False)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_company_changes_no_rows_loss(model: torch.nn.Module, examples: list[Example], packed: bool) -> None:
    assert len({len(example) for example in examples}) > 3  # or there would be no padding
    alone = sum(loss_sum(model, collate([example], packed=False)).item() for example in examples)
    together = loss_sum(model, collate(examples, packed)).item()
    assert together == pytest.approx(alone, rel=1e-6)


def test_packed_and_padded_rows_have_the_same_gradient(model: torch.nn.Module, examples: list[Example]) -> None:
    weights = list(adapter_weights(model).values())
    padded, packed = (
        torch.autograd.grad(loss_sum(model, collate(examples, packed)), weights) for packed in (False, True)
    )
    for one, other in zip(padded, packed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["qlora", "8bit"])
def test_a_quantised_layers_gradient_survives_an_evaluation(
    material: DemoData, examples: list[Example], method: str
) -> None:
    quantised = load(material, method=method)
    assert any("bitsandbytes" in type(layer).__module__ for layer in quantised.modules())
    weights = [weight for name, weight in adapter_weights(quantised).items() if "lora_B" in name]

    def gradients() -> tuple[torch.Tensor, ...]:
        quantised.train()
        found: tuple[torch.Tensor, ...] = torch.autograd.grad(
            loss_sum(quantised, collate(examples, packed=False)), weights
        )
        return found

    before = gradients()
    quantised.eval()
    with torch.no_grad():
        loss_sum(quantised, collate(examples, packed=False))
    for one, other in zip(before, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert one.abs().max() > 0


def test_only_the_adapter_can_be_trained_and_it_starts_from_the_seed(material: DemoData) -> None:
    one, same, other = (adapter_weights(load(material, seed=seed)) for seed in (1, 1, 2))
    assert all("lora_" in name for name in one)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_all_linear_is_every_projection_and_not_the_head(material: DemoData) -> None:
    mlp, attention = {"gate_proj", "up_proj", "down_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {
        name.split(".lora")[0].rpartition(".")[2] for name in adapter_weights(load(material))
    } == mlp | attention


def test_layers_that_do_not_exist_are_answered_with_those_that_do(material: DemoData) -> None:
    with pytest.raises(RunError, match="up_proj, v_proj"):
        load(material, target_modules=["query"])


def test_an_incomplete_or_broken_model_is_refused(tmp_path: Path, material: DemoData) -> None:
    for path in material.model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = DemoData(material.dataset, tmp_path, 0)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be loaded"):
        load(broken)
    weights.unlink()
    with pytest.raises(RunError, match="cannot be loaded"):
        load(broken)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path, material: DemoData) -> None:
    from safetensors.torch import load_file, save_file

    for path in material.model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(material.model / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="lacks 1 weights"):
        load(DemoData(material.dataset, tmp_path, 0))
