"""The names of GPUs, and what the provider reports of the pod."""

from __future__ import annotations

from pod_worker.worker.machine import Gpu as GpuCard
from pod_worker.worker.machine import expected_gpus, gpu_names, pod_id


def test_a_gpu_answers_to_its_short_names() -> None:
    names = gpu_names([GpuCard("NVIDIA GeForce RTX 4090", 24.0)])
    assert names == ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "RTX 4090")


def test_what_the_provider_says_of_the_pod() -> None:
    assert pod_id({"RUNPOD_POD_ID": "abc"}) == "abc"
    assert pod_id({}) != ""
    assert [expected_gpus({"RUNPOD_GPU_COUNT": text}) for text in ("2", "", "many")] == [2, 0, 0]
