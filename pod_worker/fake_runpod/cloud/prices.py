"""Hourly prices, and when an account's balance reaches zero.

Pure arithmetic on integer nano-dollars.
"""

from __future__ import annotations

from pod_worker.fake_runpod.billing.ledger import (
    CONTAINER_GB_MONTH,
    MONTH_HOURS,
    NETWORK_GB_MONTH,
    PER_MONTH,
    VOLUME_GB_MONTH,
    Rates,
)
from pod_worker.fake_runpod.cloud.account import Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.inventory import Placement
from pod_worker.fake_runpod.cloud.pod import BILLED_WHILE, Pod, PodSpec
from pod_worker.fake_runpod.timestamps import MINUTE

SPOT_SHARE_PERCENT = 50
BILLING_TICK = 5 * MINUTE
GB_PER_GPU, VCPU_PER_GPU = 62, 16


def hourly_nano(spec: PodSpec, at: Placement, gpu_count: int, catalogue: Catalogue) -> int:
    """Nano-dollars per hour of compute; a pod that started without GPUs costs nothing."""
    if spec.cpu_id is not None:
        return catalogue.cpus[spec.cpu_id].price_nano_per_vcpu * spec.vcpu_count
    price = catalogue.gpus[at.resource_id].price_nano[at.cloud] * gpu_count
    return price * SPOT_SHARE_PERCENT // 100 if spec.interruptible else price


def memory_and_vcpus(spec: PodSpec, catalogue: Catalogue) -> tuple[int, int]:
    """GB of RAM and number of vCPUs that come with the pod."""
    if spec.cpu_id is not None:
        return catalogue.cpus[spec.cpu_id].gb_per_vcpu * spec.vcpu_count, spec.vcpu_count
    return GB_PER_GPU * spec.gpu_count, VCPU_PER_GPU * spec.gpu_count


def pod_rates(pod: Pod) -> Rates:
    """While billed: compute, container disk and volume disk.

    When EXITED only the volume disk at double price.
    """
    is_on = pod.status in BILLED_WHILE
    disk = pod.spec.volume_gb * VOLUME_GB_MONTH[is_on]
    if is_on:
        disk += pod.spec.disk_gb * CONTAINER_GB_MONTH
    return Rates(pod.cost_nano * MONTH_HOURS, disk, is_on)


def volume_rates(volume: Volume) -> Rates:
    return Rates(disk=volume.size_gb * NETWORK_GB_MONTH[volume.type], on=True)


def exhausted_at(balance_nano: int, rate: int, now_ns: int) -> int | None:
    """The billing tick (every 5 minutes) at which the balance reaches zero.

    None at a rate of zero.
    """
    if rate <= 0:
        return None
    left = max(0, balance_nano) * PER_MONTH // rate
    return -(-(now_ns + left) // BILLING_TICK) * BILLING_TICK


def cuda_fits(version: str, allowed: tuple[str, ...], minimum: str | None) -> bool:
    """`major.minor`, compared as numbers: 12.11 is above 12.2."""
    if allowed:
        return version in allowed
    return minimum is None or _numbers(version) >= _numbers(minimum)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
