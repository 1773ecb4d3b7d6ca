from __future__ import annotations

import subprocess
import sys

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.training.params import FIELDS, OTHER_NAMES, complete, describe, parse

GOOD: dict[str, Json] = {"model": "m", "dataset": "d"}


def refusal(**params: Json) -> str:
    with pytest.raises(RunError) as caught:
        parse(GOOD | params)
    assert caught.value.code is FailureCode.INVALID_INPUT
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "eval_fraction",
        "max_rows",
        "alpha",
        "dropout",
        "lr",
        "warmup",
        "epochs",
        "max_steps",
        "weight_decay",
        "beta1",
        "beta2",
        "grad_clip",
        "seed",
        "threads",
        "eval_every",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
    ],
)
def test_zero_is_legal_where_zero_means_something(name: str) -> None:
    assert getattr(parse(GOOD | {name: 0}), name) == 0


NEVER_ZERO = (
    "rank", "batch_size", "gradient_accumulation", "max_length", "log_every", "keep_checkpoints", "epsilon",
)  # fmt: skip


@pytest.mark.parametrize("name", NEVER_ZERO)
def test_zero_is_refused_where_it_means_nothing(name: str) -> None:
    assert f"'{name}' is 0" in refusal(**{name: 0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "2e-4"),
        ("lr", None),
        ("lr", True),
        ("dropout", 1.0),
        ("eval_fraction", 1),
        ("rank", 8.5),
        ("rank", 10**30),
        ("method", "full"),
        ("precision", "fp8"),
        ("scheduler", 3),
        ("target_modules", []),
        ("target_modules", [""]),
        ("target_modules", 7),
        ("model", ""),
        ("model", 3),
        ("seed", -1),
        ("seed", 2**60),
        ("max_steps", -1),
        ("gradient_checkpointing", 1),
        ("max_length", 1),
        ("keep_checkpoints", 101),
        ("keep_checkpoints", 1.5),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(name: str, value: Json) -> None:
    message = refusal(**{name: value})
    assert f"'{name}' is" in message
    assert describe(name) in message


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(RunError) as caught:
        parse({"model": "m", "lr": -1, "batchsize": 4, "rank": 0})
    for part in ("'dataset' is missing", "'lr' is -1", "'batchsize' is unknown", "'rank' is 0"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "meant"), [("lora_r", "rank"), ("learning_rate", "lr"), ("batchsize", "batch_size")]
)
def test_an_unknown_name_is_answered_with_the_one_that_was_meant(wrong: str, meant: str) -> None:
    assert f"did you mean '{meant}'" in refusal(**{wrong: 1})


def test_what_others_call_it_leads_to_names_that_exist() -> None:
    assert set(OTHER_NAMES.values()) <= FIELDS.keys()
    assert not OTHER_NAMES.keys() & FIELDS.keys()


def test_every_field_says_what_it_takes() -> None:
    assert [name for name in FIELDS if not describe(name)] == []


def test_complete_writes_every_default_out_and_is_stable() -> None:
    once = complete(GOOD | {"target_modules": ["q_proj"]})
    assert once.keys() == FIELDS.keys()
    assert complete(once) == once


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [(0, 100, 0), (0.03, 100, 3), (0.001, 100, 1), (5, 100, 5), (500, 100, 100)]
)
def test_warmup_is_a_share_below_one_and_a_count_from_one_up(warmup: float, total: int, steps: int) -> None:
    assert parse(GOOD | {"warmup": warmup}).warmup_steps(total) == steps


def test_neither_the_parameters_nor_the_stage_import_torch() -> None:
    program = (
        "import sys, pod_worker.stages.finetune as f; f.parse_params({'model': 'm', 'dataset': 'd'});"
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
