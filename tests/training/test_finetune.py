"""The whole stage, in this process, on a tiny model."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gpu_check.tiny_models import write_model
from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.core.payload import RunLog, StageProgress
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind
from pod_worker.stages.finetune import FINETUNE
from pod_worker.training.checkpoints.checkpoint import EvalPoint, LossPoint, Progress
from pod_worker.training.data.demo_data import DemoData
from pod_worker.training.data.masks import encode
from pod_worker.training.loss_plot import loss_svg
from pod_worker.training.results import _curve_table
from tests.training.context import FolderContext, Stop

Params = Callable[..., dict[str, Json]]


def refusal(context: FolderContext) -> str:
    with pytest.raises(RunError) as caught:
        FINETUNE.run(context)
    assert caught.value.code is FailureCode.INVALID_INPUT
    return caught.value.message


def adapter_of(context: FolderContext) -> dict[str, torch.Tensor]:
    (path,) = context.artifacts.root.rglob("adapter_model.safetensors")
    weights: dict[str, torch.Tensor] = load_file(path)
    return weights


def test_the_loss_falls_and_everything_about_it_is_published(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(max_steps=40, dropout=0.0))
    summary = FINETUNE.run(context)
    assert summary["eval_loss_before"] > 8
    assert summary["eval_loss_after"] < 6.8
    assert summary["steps"] == 40
    kinds = [(each.kind, each.key.removeprefix("runs/test/1/")) for each in context.artifacts.published]
    assert kinds == [
        ("adapter", "adapter/adapter_model.safetensors"),
        ("adapter", "adapter/adapter_config.json"),
        ("model_card", "README.md"),
        ("report", "report.json"),
        ("report", "loss.svg"),
    ]
    json.dumps(summary, allow_nan=False)


def test_every_logged_step_has_its_metrics_and_progress(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(max_steps=10, eval_every=5))
    FINETUNE.run(context)
    names = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "loss_tokens_per_second", "memory_gb")
    for name in names:
        values = context.metric(name)
        assert len(values) == 4, name  # steps 3, 6, 9 and the last
        assert all(math.isfinite(value) for value in values)
    assert len(context.metric("eval_loss")) == 3
    progress = [each for each in context.events if isinstance(each, StageProgress)]
    assert [each.iteration for each in progress] == [0, 3, 6, 9, 10]
    assert (progress[0].progress, progress[-1].progress, progress[-1].eta_s) == (0, 1, 0)
    assert all(each.max_iterations == 10 for each in progress)


def test_the_first_line_says_what_will_be_done(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(max_steps=0))
    FINETUNE.run(context)
    first = next(each for each in context.events if isinstance(each, RunLog) and each.level == "info")
    assert first.message.startswith("fine-tuning ")
    assert first.kv
    assert first.kv.keys() >= {"trainable_parameters", "loss_tokens", "device", "precision", "attention"}
    assert context.logs("error") == []


def test_no_step_is_a_training_too(tmp_path: Path, params: Params) -> None:
    summary = FINETUNE.run(FolderContext(tmp_path, params(epochs=0, max_steps=None)))
    assert summary["steps"] == 0
    assert summary["loss_last"] is None
    assert summary["eval_loss_after"] == summary["eval_loss_before"]


def test_accumulation_is_exactly_a_large_batch(tmp_path: Path, params: Params) -> None:
    results = []
    for batch, parts in ((8, 1), (2, 4)):
        context = FolderContext(
            tmp_path / str(parts), params(batch_size=batch, gradient_accumulation=parts, dropout=0.0)
        )
        results.append((FINETUNE.run(context), adapter_of(context)))
    (large, one), (parted, other) = results
    assert parted["loss_last"] == pytest.approx(large["loss_last"], rel=1e-5)
    assert parted["eval_loss_after"] == pytest.approx(large["eval_loss_after"], rel=1e-5)
    assert parted["tokens"] == large["tokens"]
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_published_adapter_is_the_trained_model(
    tmp_path: Path, params: Params, material: DemoData, family: str
) -> None:
    """GPT-2 has Conv1D layers and an output head that is tied to its embedding."""
    import warnings

    from peft import PeftModel
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from pod_worker.training.data.dataset import read
    from pod_worker.training.model.base_model import load_tokenizer
    from pod_worker.training.model.loss import collate, loss_sum
    from pod_worker.training.params import parse

    source = material.model if family == "llama" else write_model(tmp_path / "base", family, material.model)
    context = FolderContext(tmp_path, params(model=str(source)))
    summary = FINETUNE.run(context)
    folder = next(context.artifacts.root.rglob("adapter"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(source)
        before = {name: weight.clone() for name, weight in base.state_dict().items()}
        model = PeftModel.from_pretrained(base, folder).eval()
    held_out = encode(
        read(context, parse(params())).held_out, load_tokenizer(material.model, "tiny"), 128
    ).examples
    with torch.no_grad():
        loss = loss_sum(model, collate(held_out, packed=False)).item()
        logits = model(input_ids=torch.from_numpy(held_out[0].tokens).long()[None]).logits
        merged = model.merge_and_unload()(input_ids=torch.from_numpy(held_out[0].tokens).long()[None]).logits
    assert loss / sum(example.loss_tokens for example in held_out) == pytest.approx(
        summary["eval_loss_after"], rel=1e-6
    )
    torch.testing.assert_close(logits, merged, rtol=1e-3, atol=1e-3)
    stored = load_file(source / "model.safetensors")
    prefix = "transformer." if family == "gpt2" else ""
    assert all(torch.equal(stored[name], before[name if name in before else prefix + name]) for name in stored)


def test_only_the_adapter_changes(tmp_path: Path, params: Params) -> None:
    from pod_worker.core.clock import SystemClock
    from pod_worker.training.checkpoints.checkpoint_store import CheckpointStore
    from pod_worker.training.library_logs import redirect_library_logs
    from pod_worker.training.loop import TrainingLoop
    from pod_worker.training.lora import prepare
    from pod_worker.training.model.base_model import adapter_weights
    from pod_worker.training.params import parse

    context = FolderContext(tmp_path, params())
    with redirect_library_logs(lambda _message, _level: None):
        task, _ = prepare(context, parse(params()))
        before = {name: weight.clone() for name, weight in task.model.state_dict().items()}
        TrainingLoop(task, context, CheckpointStore(context), SystemClock()).run()
    trained = adapter_weights(task.model).keys()
    changed = {name for name, weight in task.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == trained


def test_the_card_and_the_report_hold_the_numbers(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(eval_every=6, checkpoint_every_steps=3, keep_checkpoints=1))
    summary = FINETUNE.run(context)
    results = context.work_dir / "results"
    assert summary["tokens"] > summary["loss_tokens"] > 0
    assert summary["tokens_per_second"] > summary["loss_tokens_per_second"] > 0
    assert [each["step"] for each in summary["checkpoints"]] == [12]
    assert [path.name for path in (context.work_dir / "checkpoints").iterdir()] == ["step-00000012.tar"]
    report = json.loads((results / "report.json").read_text())
    assert report["summary"]["eval_loss_after"] == summary["eval_loss_after"]
    assert [point["step"] for point in report["evaluations"]] == [0, 6, 12]
    assert report["hyper_parameters"]["rank"] == 4
    assert {"torch", "transformers", "peft"} <= report["versions"].keys()
    card = (results / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    assert f"| 12 | {summary['loss_last']:.4f} | {summary['eval_loss_after']:.4f} |" in card
    assert summary["data_sha256"] in card
    ElementTree.parse(results / "loss.svg")


@pytest.mark.parametrize("evaluations", [3, 50, 51, 5000])
def test_the_card_holds_every_held_out_loss_as_far_as_it_has_room(evaluations: int) -> None:
    evals = [EvalPoint(step * 10, 2.0 + 1 / (step + 1)) for step in range(evaluations)]
    best = evaluations // 2 - 1  # between two evenly spread points
    evals[best] = EvalPoint(best * 10, 1.2345678901234567)
    curve = [LossPoint(step, 3.0, 0.1, 1.0) for step in range(1, 10 * evaluations)]
    lines = _curve_table(Progress(curve=curve, evals=evals)).splitlines()
    shown = [line.split("|")[3].strip() for line in lines if line.startswith("| ") and "Step" not in line]
    held = [value for value in shown if value]
    assert "1.2346" in held
    assert held[0] == f"{evals[0].loss:.4f}"
    assert held[-1] == f"{evals[-1].loss:.4f}"
    assert len(held) == evaluations if evaluations <= 50 else len(held) in (50, 51)
    assert (f"{evaluations - len(held)} more evaluations are in report.json." in lines) == (
        evaluations > len(held)
    )
    assert len(shown) <= 63


def test_a_card_has_no_number_of_sixteen_digits(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(lr=1 / 3, max_steps=2))
    FINETUNE.run(context)
    card = (context.work_dir / "results" / "README.md").read_text()
    assert "| lr | 0.333333 |" in card
    assert not re.search(r"\d\.\d{8,}", card)


def test_curves_of_any_length_are_well_formed() -> None:
    points = [LossPoint(step, 1 / (step + 1), 0.1, 1.0) for step in range(5000)]
    for curve, evals in (([], []), (points[:1], []), ([], [EvalPoint(0, 3.0)]), (points, [EvalPoint(0, 3.0)])):
        svg = loss_svg(curve, evals)
        ElementTree.fromstring(svg)
        assert len(svg) < 30_000


def test_rows_cut_to_fit_are_reported(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(max_length=40, max_steps=1))
    FINETUNE.run(context)
    assert any("rows were cut to max_length=40" in line for line in context.logs("warning"))


def test_a_length_the_model_cannot_place_is_lowered_and_said(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(max_length=5000, max_steps=0))
    FINETUNE.run(context)
    assert any("max_length is 256, not 5000" in line for line in context.logs("warning"))


def test_the_data_set_may_be_an_artifact(tmp_path: Path, params: Params, material: DemoData) -> None:
    context = FolderContext(tmp_path, params(dataset="runs/test/1/data/rows.jsonl", max_steps=1))
    context.artifacts.publish(material.dataset, ArtifactKind.DATA, "data/rows.jsonl")
    assert FINETUNE.run(context)["data_rows"] == 108


def test_held_out_rows_may_be_a_file_of_their_own(tmp_path: Path, params: Params, material: DemoData) -> None:
    other = tmp_path / "held.jsonl"
    other.write_text("".join(material.dataset.read_text().splitlines(keepends=True)[:7]))
    summary = FINETUNE.run(FolderContext(tmp_path, params(eval_dataset=str(other), max_steps=1)))
    assert (summary["data_rows"], summary["held_out_rows"]) == (120, 7)


def test_bad_input_ends_before_a_model_is_loaded(tmp_path: Path, params: Params) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user"}]}\n')
    assert "line 1: message 0 has no 'content'" in refusal(FolderContext(tmp_path, params(dataset=str(bad))))
    assert "does not exist" in refusal(FolderContext(tmp_path, params(dataset="/no/such.jsonl")))
    assert "there is no such folder" in refusal(FolderContext(tmp_path, params(model="/no/such/model")))


def test_a_model_smaller_than_its_tokenizer_is_refused(tmp_path: Path, params: Params, material: DemoData) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in material.model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    from safetensors.torch import save_file

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:1000].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    assert "do not match" in refusal(FolderContext(tmp_path, params(model=str(folder))))


def test_a_loss_that_is_not_finite_fails_with_advice(tmp_path: Path, params: Params) -> None:
    with pytest.raises(RunError, match="Lower lr") as caught:
        FINETUNE.run(FolderContext(tmp_path, params(lr=1e8, grad_clip=0, warmup=0)))
    assert caught.value.code is FailureCode.USER_ERROR


def test_a_cancel_ends_it_at_once_and_leaves_nothing(tmp_path: Path, params: Params) -> None:
    context = FolderContext(tmp_path, params(), stop=Stop(after=8, reason=CancelRequested))
    with pytest.raises(CancelRequested):
        FINETUNE.run(context)
    assert context.stop.checks == 9
    assert context.artifacts.published == []
    assert context.saved_state == {}


@pytest.mark.parametrize(
    "changes", [{"max_steps": 1}, {"checkpoint_every_steps": 1}], ids=["result", "checkpoint"]
)
def test_an_adapter_with_weights_that_are_not_finite_is_never_published(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Json]
) -> None:
    """The loss of the last step is finite; only its update is not."""
    step = torch.optim.AdamW.step

    def spoil(self: torch.optim.AdamW, *arguments: object) -> object:
        done = step(self, *arguments)
        self.param_groups[0]["params"][0].data[0, 0] = math.nan
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    context = FolderContext(tmp_path, params(eval_fraction=0, **changes))
    with pytest.raises(RunError, match="adapter weights are not finite") as caught:
        FINETUNE.run(context)
    assert caught.value.code is FailureCode.USER_ERROR
    assert context.artifacts.published == []


def test_held_out_rows_that_do_not_fit_do_not_end_the_training(tmp_path: Path, params: Params) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"prompt": "word " * 500, "completion": "x"}) + "\n")
    context = FolderContext(tmp_path / "run", params(eval_dataset=str(held_out)))
    summary = FINETUNE.run(context)
    assert summary["eval_loss_after"] is None
    assert any("1 of 1 held-out rows" in line for line in context.logs("warning"))


def test_training_rows_that_do_not_fit_end_it(tmp_path: Path, params: Params) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "word " * 500, "completion": "x"}) + "\n")
    message = refusal(FolderContext(tmp_path / "run", params(dataset=str(rows), eval_fraction=0)))
    assert "none of the 1 training rows" in message
    assert "raise max_length" in message


def test_what_became_of_training_rows_is_logged(tmp_path: Path, params: Params, material: DemoData) -> None:
    """Some are left out, and the template writes no end token."""
    model = tmp_path / "model"
    shutil.copytree(material.model, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("<|im_end|>", "")
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    long = {"messages": [{"role": "user", "content": "word " * 500}, {"role": "assistant", "content": "x"}]}
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(material.dataset.read_text().splitlines(True)[:6]) + json.dumps(long) + "\n")
    context = FolderContext(tmp_path, params(model=str(model), dataset=str(rows), eval_fraction=0, max_steps=0))
    FINETUNE.run(context)
    warnings = context.logs("warning")
    assert any("1 of 7 training rows have no loss-bearing token" in line for line in warnings), warnings
    assert any("7 of 7 training conversations without an end token" in line for line in warnings), warnings
