"""The machine and its load: pod id, GPUs (NVML), CPU, memory, disk.

A machine without NVIDIA's library has no GPUs.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1024**3
CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    vram_gb: float


@dataclass(frozen=True, slots=True)
class GpuLoad:
    util: float  # 0..1, of the busiest GPU
    used_gb: float  # summed
    temp_c: float  # of the hottest
    power_w: float  # summed


@dataclass(frozen=True, slots=True)
class MachineLoad:
    cpu_pct: float
    rss_gb: float  # of this process and everything below it
    disk_free_gb: float
    gpu: GpuLoad | None


@dataclass(frozen=True, slots=True)
class MachineOffer:
    """What runs may use here; a run that requires more is not claimed."""

    cpus: float
    memory_gb: float
    disk_gb: float  # free when it was measured


class GpuMonitor:
    """NVML, opened once. Without a driver every list is empty.

    `indices` are the GPUs of this worker, as NVML counts them; None for all of the pod.
    """

    def __init__(self, indices: tuple[int, ...] | None = None) -> None:
        self._handles: list[object] = []
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            wanted = range(pynvml.nvmlDeviceGetCount()) if indices is None else indices
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in wanted]
        except Exception:  # NVML has one error class per driver state; all of them mean that no GPU can be used
            self._handles = []

    def list(self) -> list[Gpu]:
        return [self._gpu(handle) for handle in self._handles]

    def _gpu(self, handle: object) -> Gpu:
        name = self._nvml.nvmlDeviceGetName(handle)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(name.decode() if isinstance(name, bytes) else name, round(memory.total / GIB, 1))

    def load(self) -> GpuLoad | None:
        """None where there is no GPU, or where the driver has stopped answering."""
        nvml = getattr(self, "_nvml", None)
        if not self._handles or nvml is None:
            return None
        try:
            return GpuLoad(
                util=max(nvml.nvmlDeviceGetUtilizationRates(h).gpu for h in self._handles) / 100,
                used_gb=round(sum(nvml.nvmlDeviceGetMemoryInfo(h).used for h in self._handles) / GIB, 3),
                temp_c=max(nvml.nvmlDeviceGetTemperature(h, 0) for h in self._handles),
                power_w=round(sum(nvml.nvmlDeviceGetPowerUsage(h) for h in self._handles) / 1000, 1),
            )
        except nvml.NVMLError:
            return None


class Machine:
    def __init__(self, work_dir: Path, gpus: GpuMonitor | None = None) -> None:
        self._work_dir = work_dir
        self._gpus = gpus or GpuMonitor()
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first call only starts the interval that the next one measures

    @property
    def gpus(self) -> list[Gpu]:
        return self._gpus.list()

    def load(self) -> MachineLoad:
        return MachineLoad(
            cpu_pct=psutil.cpu_percent(),
            rss_gb=round(self._resident_bytes() / GIB, 3),
            disk_free_gb=round(free_bytes(self._work_dir) / GIB, 2),
            gpu=self._gpus.load(),
        )

    def offer(self) -> MachineOffer:
        memory = min(psutil.virtual_memory().total, cgroup_memory_limit() or math.inf)
        return MachineOffer(
            cpus=float(len(os.sched_getaffinity(0))),
            memory_gb=round(memory / GIB, 2),
            disk_gb=round(free_bytes(self._work_dir) / GIB, 2),
        )

    def _resident_bytes(self) -> int:
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # it ended after it was listed
        return total


def cgroup_memory_limit(root: Path = CGROUP_ROOT) -> int | None:
    """The memory limit of this container in bytes; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def free_bytes(path: Path) -> int:
    """Free space where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return psutil.disk_usage(str(path)).free


def pod_id(env: Mapping[str, str]) -> str:
    """RunPod sets RUNPOD_POD_ID; elsewhere the host's name has to do."""
    return env.get("RUNPOD_POD_ID") or socket.gethostname()


def expected_gpus(env: Mapping[str, str]) -> int:
    """How many GPUs the pod was rented with; 0 where it is not set.

    RunPod sets RUNPOD_GPU_COUNT.
    """
    count = env.get("RUNPOD_GPU_COUNT", "")
    return int(count) if count.isdigit() else 0


def gpu_names(gpus: list[Gpu]) -> tuple[str, ...]:
    """Every name under which a run may ask for these GPUs."""
    return tuple(sorted({name for gpu in gpus for name in names_of_gpu(gpu.name)}))


def names_of_gpu(name: str) -> set[str]:
    """'NVIDIA GeForce RTX 4090' is also 'GeForce RTX 4090' and 'RTX 4090'."""
    short = name.removeprefix("NVIDIA ")
    return {name, short, short.removeprefix("GeForce ")}


def region(env: Mapping[str, str]) -> str | None:
    return env.get("RUNPOD_DC_ID") or env.get("RUNPOD_DATACENTER") or None
