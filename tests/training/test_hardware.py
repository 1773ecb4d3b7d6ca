from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.training.hardware import Capabilities, _cpu_flags, detect_capabilities, plan_execution
from pod_worker.training.params import parse
from pod_worker.training.schedule import learning_rate, total_steps

CPU = Capabilities("cpu", "cpu", has_bf16=False, has_varlen_kernel=False, has_bitsandbytes=True)
CPU_BF16 = Capabilities("cpu", "cpu", has_bf16=True, has_varlen_kernel=False, has_bitsandbytes=True)
OLD_GPU = Capabilities("cuda", "T4", has_bf16=False, has_varlen_kernel=False, has_bitsandbytes=True)
GPU = Capabilities("cuda", "A100", has_bf16=True, has_varlen_kernel=False, has_bitsandbytes=True)
FLASH = Capabilities("cuda", "A100", has_bf16=True, has_varlen_kernel=True, has_bitsandbytes=False)


@pytest.mark.parametrize(
    ("machine", "asked", "precision", "packed", "attention"),
    [
        (CPU, {}, "fp32", False, "sdpa"),
        (CPU_BF16, {}, "fp32", False, "sdpa"),
        (CPU, {"precision": "bf16"}, "fp32", False, "sdpa"),
        (CPU_BF16, {"precision": "bf16"}, "bf16", False, "sdpa"),
        (CPU_BF16, {"precision": "fp16"}, "fp32", False, "sdpa"),
        (CPU, {"packing": "packed"}, "fp32", True, "sdpa"),
        (OLD_GPU, {}, "fp16", False, "sdpa"),
        (OLD_GPU, {"precision": "bf16"}, "fp16", False, "sdpa"),
        (GPU, {}, "bf16", False, "sdpa"),
        (GPU, {"precision": "fp32"}, "fp32", False, "sdpa"),
        (GPU, {"packing": "packed"}, "bf16", True, "sdpa"),
        (FLASH, {}, "bf16", True, "flash_attention_2"),
        (FLASH, {"packing": "group"}, "bf16", False, "sdpa"),
        (FLASH, {"precision": "fp16"}, "fp16", True, "flash_attention_2"),
        (FLASH, {"precision": "fp32"}, "fp32", False, "sdpa"),
        (FLASH, {"precision": "fp32", "packing": "packed"}, "fp32", True, "sdpa"),
    ],
)
def test_what_a_machine_does_with_what_was_asked(
    machine: Capabilities, asked: dict[str, Json], precision: str, packed: bool, attention: str
) -> None:
    execution = plan_execution(parse({"model": "m", "dataset": "d", **asked}), machine)
    assert (execution.precision, execution.packed, execution.attention) == (precision, packed, attention)
    assert all(": " in reason for reason in execution.reasons)


def test_quantised_methods_need_their_library() -> None:
    with pytest.raises(RunError, match="bitsandbytes") as caught:
        plan_execution(parse({"model": "m", "dataset": "d", "method": "qlora"}), FLASH)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_this_machine_can_be_probed() -> None:
    assert detect_capabilities().device in ("cpu", "cuda")
    assert detect_capabilities().name


def test_cpu_flags_are_read_for_both_architectures_and_need_no_file(tmp_path: Path) -> None:
    intel, arm = tmp_path / "intel", tmp_path / "arm"
    intel.write_text("processor : 0\nflags\t\t: fpu avx512_bf16 sse\n")
    arm.write_text("Features : fp asimd bf16\n")
    assert "avx512_bf16" in _cpu_flags(intel)
    assert "bf16" in _cpu_flags(arm)
    assert _cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("scheduler", "first", "middle", "last"), [("cosine", 1, 0.5, 0), ("linear", 1, 0.5, 0), ("constant", 1, 1, 1)]
)
def test_schedules(scheduler: str, first: float, middle: float, last: float) -> None:
    params = parse({"model": "m", "dataset": "d", "lr": 1, "scheduler": scheduler, "warmup": 10})
    assert [learning_rate(params, step, 110) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1])
    assert learning_rate(params, 10, 110) == pytest.approx(first)
    assert learning_rate(params, 60, 110) == pytest.approx(middle)
    assert learning_rate(params, 110, 110) == pytest.approx(last)


def test_steps_come_from_epochs_unless_they_are_given() -> None:
    assert total_steps(parse({"model": "m", "dataset": "d", "epochs": 1.5}), 10) == 15
    assert total_steps(parse({"model": "m", "dataset": "d", "epochs": 0}), 10) == 0
    assert total_steps(parse({"model": "m", "dataset": "d", "max_steps": 0}), 10) == 0
    assert total_steps(parse({"model": "m", "dataset": "d", "max_steps": 7}), 10) == 7
