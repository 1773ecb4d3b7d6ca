"""Places new pods on machines, and gives stopped pods their GPUs again.

Decides placement, price and injected variables. Billing and timing are elsewhere.
"""

from __future__ import annotations

import random

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.cloud import prices
from pod_worker.fake_runpod.cloud.account import Account, Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.faults import FaultContext, FaultRules
from pod_worker.fake_runpod.cloud.inventory import GpuInventory, Placement
from pod_worker.fake_runpod.cloud.machines import MachineAllocator
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec, Status
from pod_worker.fake_runpod.cloud.validation import check_spec
from pod_worker.fake_runpod.errors import NO_FREE_GPUS, NO_INSTANCES, ApiError, ApiErrorKind

DEFAULT_CUDA = "12.8"


class PodPlacer:
    def __init__(self, account: Account, catalogue: Catalogue, faults: FaultRules, rng: random.Random) -> None:
        self._account = account
        self._catalogue = catalogue
        self._faults = faults
        self._rng = rng
        self.stock = GpuInventory(catalogue)
        self.machines = MachineAllocator(rng)

    def index(self, spec: PodSpec, surface: str, now_ns: int) -> Pod:
        """A pod on a machine that fits; its GPUs are not taken yet. Raises ApiError."""
        volume = check_spec(spec, self._account, self._catalogue)
        cuda = self._cuda_version(spec)
        at = self._place(spec, volume, FaultContext(surface=surface, name=spec.name), now_ns)
        pod = self.machines.new_pod(spec, at, now_ns)
        pod.cuda_version = cuda
        pod.rate_nano = prices.hourly_nano(spec, at, pod.gpu_count, self._catalogue)
        pod.memory_gb, pod.vcpu_count = prices.memory_and_vcpus(spec, self._catalogue)
        pod.last_change = f"Rented by User: {timestamps.javascript_format(now_ns)}"
        self._inject(spec)
        return pod

    def take_gpus(self, pod: Pod) -> None:
        self.stock.take(placement_of(pod), pod.gpu_count)

    def free_gpus(self, pod: Pod) -> None:
        """Release the GPUs; a stopped pod has released them already."""
        if pod.status is not Status.EXITED:
            self.stock.release(placement_of(pod), pod.gpu_count)

    def retake_gpus(self, pod: Pod, now_ns: int) -> None:
        """Take a stopped pod's GPUs again, none with the fault zero_gpu_on_start.

        Raises ApiError (CAPACITY).
        """
        if pod.status is Status.EXITED and not pod.spec.is_cpu:
            at = placement_of(pod)
            wanted = 0 if pod.injected_faults.zero_gpu_on_start else pod.spec.gpu_count
            capacity_shortage = self._faults.capacity_shortage(fault_context_of(pod), now_ns)
            is_blocked = wanted and capacity_shortage(at.resource_id, at.data_center_id, at.cloud)
            capacity_shortage.record_triggers()
            if is_blocked or self.stock.free(at) < wanted:
                raise ApiError(ApiErrorKind.CAPACITY, NO_FREE_GPUS)
            pod.gpu_count = wanted
            self.take_gpus(pod)
        pod.rate_nano = prices.hourly_nano(pod.spec, placement_of(pod), pod.gpu_count, self._catalogue)

    def _cuda_version(self, spec: PodSpec) -> str | None:
        if spec.is_cpu or any(gpu.startswith("AMD") for gpu in spec.gpu_ids):
            return None
        offered = self._catalogue.cuda_versions
        fits = [v for v in offered if prices.cuda_fits(v, spec.allowed_cuda, spec.min_cuda)]
        if not fits:
            raise ApiError(ApiErrorKind.CAPACITY, NO_INSTANCES)
        return DEFAULT_CUDA if DEFAULT_CUDA in fits else fits[0]

    def _place(self, spec: PodSpec, volume: Volume | None, context: FaultContext, now_ns: int) -> Placement:
        capacity_shortage = self._faults.capacity_shortage(context, now_ns)
        wanted = (volume.data_center_id,) if volume else spec.data_center_ids
        clouds = ("SECURE",) if volume else spec.clouds
        if spec.cpu_id is not None:
            options = (Placement(spec.cpu_id, dc, "SECURE") for dc in wanted or self._catalogue.data_center_ids)
            at = next(
                (o for o in options if not capacity_shortage(o.resource_id, o.data_center_id, o.cloud)), None
            )
        else:
            at = self.stock.place_gpu(spec.gpu_ids, clouds, wanted, spec.gpu_count, capacity_shortage, self._rng)
        capacity_shortage.record_triggers()
        if at is None:
            raise ApiError(ApiErrorKind.CAPACITY, NO_INSTANCES)
        return at

    def _inject(self, spec: PodSpec) -> None:
        """Add the provisioner's variables, unless the request sets them."""
        if spec.start_ssh and self._account.ssh_keys:
            spec.env.setdefault("PUBLIC_KEY", "\n".join(self._account.ssh_keys))
        if spec.start_jupyter:
            spec.env.setdefault("JUPYTER_PASSWORD", self.machines.random_id(16))


def placement_of(pod: Pod) -> Placement:
    return Placement(pod.gpu_id or str(pod.spec.cpu_id), pod.data_center_id, pod.cloud)


def fault_context_of(pod: Pod) -> FaultContext:
    return FaultContext(
        gpu=pod.gpu_id, data_center=pod.data_center_id, cloud=pod.cloud, name=pod.spec.name, pod=pod.id
    )
