"""The machine and its load: pod id, GPUs (NVML), CPU, memory, disk.

A machine without NVIDIA's library has no GPUs.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pod_worker.core.worker_offer import WorkerOffer

GIB = 1024**3
CGROUP_ROOT = Path("/sys/fs/cgroup")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


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


class UnknownGpuError(ValueError):
    """A GPU was named that the machine lacks; the message has the fix."""


class GpuMonitor:
    """NVML, opened once. Without a driver every list is empty.

    `owned` are the GPUs of this worker, as NVML counts them, or their UUIDs; None for all of the pod.
    """

    def __init__(self, owned: Sequence[int | str] | None = None) -> None:
        """Raises UnknownGpuError for an owned GPU that is not there."""
        self._handles: list[object] = []
        try:
            import pynvml

            self._nvml = pynvml
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
        except Exception as error:  # NVML has one error class per driver state: all mean that no GPU can be used
            if owned:
                raise UnknownGpuError(
                    f"GPU {owned[0]}, but this machine has no usable NVIDIA driver ({error}). Leave it out to "
                    "work without a GPU, or repair the driver (nvidia-smi)."
                ) from None
            return
        self._handles = [self._handle(each, count) for each in (range(count) if owned is None else owned)]

    def _handle(self, gpu: int | str, count: int) -> object:
        try:
            if isinstance(gpu, str):
                return self._nvml.nvmlDeviceGetHandleByUUID(gpu)
            return self._nvml.nvmlDeviceGetHandleByIndex(gpu)
        except self._nvml.NVMLError as error:
            known = f"GPUs 0 to {count - 1}" if count > 1 else "one GPU, 0" if count else "no GPU"
            raise UnknownGpuError(
                f"GPU {gpu}, which cannot be used ({error}). This pod has {known}: name GPUs that `nvidia-smi -L` "
                "lists."
            ) from None

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

    def offer(self, region: str | None = None) -> WorkerOffer:
        """What runs may use here now."""
        memory = min(psutil.virtual_memory().total, cgroup_memory_limit() or math.inf)
        sizes = [gpu.vram_gb for gpu in self._owned_gpus]
        return WorkerOffer(
            gpu_names=gpu_names(self._owned_gpus),
            gpu_count=len(sizes),
            smallest_vram_gb=min(sizes, default=0.0),
            largest_vram_gb=max(sizes, default=0.0),
            cpus=min(float(len(os.sched_getaffinity(0))), cgroup_cpu_limit() or math.inf),
            memory_gb=round(memory / GIB, 2),
            disk_gb=round(free_bytes(self._work_dir) / GIB, 2),
            region=region,
        )

    @functools.cached_property
    def _owned_gpus(self) -> list[Gpu]:
        """Asked of the driver once: a driver that fails later is the heartbeat's subject."""
        return self.gpus

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


def cgroup_cpu_limit(root: Path = CGROUP_ROOT) -> float | None:
    """The CPU cores that the quota of this container allows; None without one.

    Version 2 has `cpu.max` ("QUOTA PERIOD", or "max PERIOD"), version 1 two files (quota -1 for no limit).
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((root / name).read_text() for name in names).split()
        except OSError:
            continue
        is_limited = len(words) == 2 and all(word.isdigit() and int(word) for word in words)
        return int(words[0]) / int(words[1]) if is_limited else None
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
    """How many GPUs of the pod this process should see; 0 where it is not set.

    RunPod sets RUNPOD_GPU_COUNT. CUDA_VISIBLE_DEVICES may leave fewer.
    """
    count, owned = env.get("RUNPOD_GPU_COUNT", ""), owned_gpus(env)
    rented = int(count) if count.isdigit() else 0
    return rented if owned is None else min(rented, len(owned))


def owned_gpus(env: Mapping[str, str]) -> tuple[int | str, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process and its runs.

    Numbers or UUIDs; none from the first negative number on; None where the variable is not set.
    """
    shown = env.get(VISIBLE_GPUS)
    if shown is None:
        return None
    words = [word.strip() for word in shown.split(",") if word.strip()]
    valid = itertools.takewhile(lambda word: not word.startswith("-"), words)
    return tuple(int(word) if word.isascii() and word.isdigit() else word for word in valid)


def gpu_names(gpus: list[Gpu]) -> tuple[str, ...]:
    """Every name under which a run may ask for these GPUs: all of them have it."""
    names = [names_of_gpu(gpu.name) for gpu in gpus]
    return tuple(sorted(set.intersection(*names))) if names else ()


def names_of_gpu(name: str) -> set[str]:
    """'NVIDIA GeForce RTX 4090' is also 'GeForce RTX 4090' and 'RTX 4090'."""
    short = name.removeprefix("NVIDIA ")
    return {name, short, short.removeprefix("GeForce ")}


def region(env: Mapping[str, str]) -> str | None:
    return env.get("RUNPOD_DC_ID") or env.get("RUNPOD_DATACENTER") or None
