"""Sizes and GPUs as people write them."""

from __future__ import annotations

import pytest

from pod_worker.command.job.words import GpuNeed, WordError, gpu_need, size_gb


@pytest.mark.parametrize(
    ("text", "gigabytes"), [("64GB", 64), ("512MB", 0.5), ("1TB", 1024), (16, 16), ("8 gb", 8)]
)
def test_sizes(text: str | float, gigabytes: float) -> None:
    assert size_gb(text) == gigabytes


@pytest.mark.parametrize("text", ["lots", "", "0GB", "-1GB", "64XB", True])
def test_other_texts_are_no_sizes(text: str | float) -> None:
    with pytest.raises(WordError, match="no size"):
        size_gb(text)


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("H100:2", GpuNeed("H100", 2)),
        ("RTX 4090", GpuNeed("RTX 4090", 1)),
        ("24GB..48GB:1", GpuNeed(None, 1, 24, 48)),
        ("24GB..:4", GpuNeed(None, 4, 24, None)),
        ("80GB", GpuNeed(None, 1, 80, None)),
        (2, GpuNeed(count=2)),
    ],
)
def test_gpus(text: str | int, need: GpuNeed) -> None:
    assert gpu_need(text) == need


@pytest.mark.parametrize("text", ["H100:x", "H100:0", "48GB..24GB", "24..48:1", "H100:2000"])
def test_other_texts_are_no_gpus(text: str) -> None:
    with pytest.raises(WordError):
        gpu_need(text)
