"""The GPUs of a worker, what it offers to runs, and what the provider reports of the pod."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pod_worker.worker import machine as machines
from pod_worker.worker.machine import (
    GIB,
    GpuMonitor,
    Machine,
    UnknownGpuError,
    cgroup_cpu_limit,
    expected_gpus,
    gpu_names,
    owned_gpus,
    pod_id,
)
from pod_worker.worker.machine import Gpu as GpuCard


def test_a_gpu_answers_to_its_short_names() -> None:
    names = gpu_names([GpuCard("NVIDIA GeForce RTX 4090", 24.0)])
    assert names == ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "RTX 4090")


def test_a_mixed_pod_answers_to_no_name_that_only_one_gpu_has() -> None:
    """A run that asks for two H100 would get one."""
    assert gpu_names([GpuCard("NVIDIA H100", 80.0), GpuCard("NVIDIA A100", 80.0)]) == ()


def test_what_the_provider_says_of_the_pod() -> None:
    assert pod_id({"RUNPOD_POD_ID": "abc"}) == "abc"
    assert pod_id({}) != ""
    assert [expected_gpus({"RUNPOD_GPU_COUNT": text}) for text in ("2", "", "many")] == [2, 0, 0]
    assert expected_gpus({"RUNPOD_GPU_COUNT": "2", "CUDA_VISIBLE_DEVICES": "1"}) == 1


# ── which GPUs are the worker's ─────────────────────────────────────────────────────────────────────────────


class NvmlError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with three GPUs of 16, 24 and 80 GiB."""
    sizes = [16, 24, 80]

    def by_index(index: int) -> int:
        if index >= len(sizes):
            raise NvmlError("Invalid Argument")
        return index

    def by_uuid(uuid: str) -> int:
        if uuid != "GPU-80":
            raise NvmlError("Not Found")
        return 2

    library = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(sizes),
        nvmlDeviceGetHandleByIndex=by_index,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetName=lambda handle: f"GPU of {sizes[handle]}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=sizes[handle] * GIB),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("owned", "count", "smallest", "largest"),
    [(None, 3, 16, 80), ((1,), 1, 24, 24), ((0, 1), 2, 16, 24), (("GPU-80",), 1, 80, 80), ((), 0, 0, 0)],
)
def test_a_worker_offers_the_memory_of_its_own_gpus(
    tmp_path: Path, owned: tuple[int | str, ...] | None, count: int, smallest: float, largest: float
) -> None:
    offer = Machine(tmp_path, GpuMonitor(owned)).offer("EU")
    assert (offer.gpu_count, offer.smallest_vram_gb, offer.largest_vram_gb) == (count, smallest, largest)
    assert offer.region == "EU"


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize("gpu", [3, "GPU-40"])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpu: int | str) -> None:
    with pytest.raises(UnknownGpuError, match=rf"GPU {gpu}, which cannot be used .* GPUs 0 to 2: name GPUs that"):
        GpuMonitor((0, gpu))


def test_without_a_driver_an_owned_gpu_is_refused_and_none_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NvmlError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NvmlError, nvmlInit=fail))
    with pytest.raises(
        UnknownGpuError, match=r"GPU 1, but this machine has no usable NVIDIA driver .*Driver Not Loaded"
    ):
        GpuMonitor((1,))
    assert GpuMonitor(()).list() == GpuMonitor().list() == []


@pytest.mark.parametrize(
    ("shown", "owned"),
    [(None, None), ("", ()), ("-1", ()), ("0,2", (0, 2)), ("1,-1,2", (1,)), (" GPU-80 ,0", ("GPU-80", 0))],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    shown: str | None, owned: tuple[int | str, ...] | None
) -> None:
    assert owned_gpus({} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}) == owned


# ── what the container allows ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "odd\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
    ],
)
def test_the_quota_of_the_container_in_cores(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_cpu_limit(tmp_path) == cores


def test_the_quota_limits_the_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "cgroup_cpu_limit", lambda: 0.5)
    assert Machine(tmp_path, GpuMonitor(())).offer().cpus == 0.5


def test_the_disk_is_measured_at_each_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, free = Machine(tmp_path, GpuMonitor(())), iter([3 * GIB, 1 * GIB])
    monkeypatch.setattr(machines, "free_bytes", lambda _path: next(free))
    assert [machine.offer().disk_gb, machine.offer().disk_gb] == [3.0, 1.0]
