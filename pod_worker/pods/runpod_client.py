"""The classic module interface: `RunpodClient`, its factory, functions.

These composition functions read missing settings from the environment (runpod_settings.from_env). Intents go to
a local file unless a log is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict, TypeVar

from ulid import ULID

from pod_worker.core.clock import Clock, SystemClock
from pod_worker.core.pod_intent import IntentLog
from pod_worker.pods.catalogue import StockLevel
from pod_worker.pods.launch.candidates import Candidate, Cooldowns
from pod_worker.pods.launch.launcher import Launcher, LaunchFailed, LaunchRequest
from pod_worker.pods.launch.readiness import BootFailed, wait_until_ready
from pod_worker.pods.launch.sqlite_intents import IntentFile
from pod_worker.pods.launch_requests import NotAvailableError
from pod_worker.pods.pod import Cloud, PodSpec
from pod_worker.pods.provider import PodProvider, Unknown
from pod_worker.pods.runpod.connect import connect
from pod_worker.pods.runpod_settings import DEFAULT_STATE_DIR, RunpodSettings, from_env
from pod_worker.pods.ssh.client import SSHClient
from pod_worker.pods.ssh.host_keys import PinFolder
from pod_worker.pods.worker_client import RunpodClient, SpawnError
from pod_worker.pods.worker_reports import PodReport, pod_report

__all__ = [
    "RunpodClient",
    "SSHClient",
    "create_pod_and_wait",
    "create_runpod_client",
    "find_gpu_type",
    "get_network_volumes",
    "get_runpod_status",
    "spawn_runpod_gpu",
    "terminate_runpod_gpu",
]


T = TypeVar("T")


class NetworkVolume(TypedDict):
    id: str
    name: str
    size: int
    dataCenterId: str


class GpuType(TypedDict):
    id: str
    displayName: str
    memoryInGb: int
    securePrice: float | None
    communityPrice: float | None
    available: bool
    """False only if the catalogue shows no stock."""


class CreatedPod(TypedDict):
    id: str
    name: str
    details: PodReport


class PodNotReadyError(Exception):
    """The pod did not become ready and was terminated; the message has the reason."""


def open_provider(settings: RunpodSettings, clock: Clock, sleep: Callable[[float], None]) -> PodProvider:
    return connect(
        settings.api, settings.api_key, root=settings.root, clock=clock, sleep=sleep, rng=random.Random()
    )


def make_client(
    settings: RunpodSettings,
    *,
    log: IntentLog | None = None,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> RunpodClient:
    """A client with everything that it needs, from its settings."""
    clock = clock or SystemClock()
    provider = open_provider(settings, clock, sleep)
    own_log = IntentFile(settings.state_dir.expanduser() / "intents.db") if log is None else None
    log = log or own_log
    assert log is not None
    return RunpodClient(
        settings,
        provider=provider,
        launcher=make_launcher(provider, log, clock, sleep),
        log=log,
        pins=PinFolder(settings.state_dir.expanduser() / "host_keys"),
        clock=clock,
        sleep=sleep,
        on_close=own_log.close if own_log else (lambda: None),
    )


def make_launcher(provider: PodProvider, log: IntentLog, clock: Clock, sleep: Callable[[float], None]) -> Launcher:
    return Launcher(
        provider, log, clock=clock, sleep=sleep, new_id=lambda: str(ULID()), cooldowns=Cooldowns(clock)
    )


def create_runpod_client() -> RunpodClient:
    """From the environment (RUNPOD_API_KEY and the other RUNPOD_* names).

    Raises RunpodConfigurationError.
    """
    return make_client(from_env())


@contextlib.contextmanager
def _account(api_key: str) -> Iterator[PodProvider]:
    """The account of `api_key`; which API and host come from the environment."""
    settings = from_env({**os.environ, "RUNPOD_API_KEY": api_key})
    with contextlib.closing(open_provider(settings, SystemClock(), time.sleep)) as provider:
        yield provider


def get_network_volumes(api_key: str) -> list[NetworkVolume]:
    """All network volumes. Raises ProviderError where the account cannot be read."""
    with _account(api_key) as provider:
        listing = provider.volumes()
    if isinstance(listing, Unknown):
        raise listing.error
    return [
        {"id": each.id, "name": each.name, "size": each.size_gb, "dataCenterId": each.data_center_id}
        for each in listing.value
    ]


def find_gpu_type(gpu_display_name: str, api_key: str) -> GpuType:
    """By display name or id.

    Raises NotAvailableError with the known names, or ProviderError.
    """
    with _account(api_key) as provider:
        read = provider.catalogue()
    if isinstance(read, Unknown):
        raise read.error
    offer = read.value.gpu(gpu_display_name)
    if offer is None:
        names = ", ".join(sorted(each.name for each in read.value.gpus))
        raise NotAvailableError(f"no GPU type is called {gpu_display_name!r}; there are: {names}")
    return {
        "id": offer.id,
        "displayName": offer.name,
        "memoryInGb": offer.memory_gb,
        "securePrice": offer.price_per_hour.get(Cloud.SECURE),
        "communityPrice": offer.price_per_hour.get(Cloud.COMMUNITY),
        "available": any(stock is not StockLevel.NONE for stock in offer.stock.values()),
    }


def create_pod_and_wait(
    *,
    api_key: str,
    name: str,
    image_name: str,
    gpu_type_id: str,
    gpu_count: int = 1,
    cloud_type: str = "SECURE",
    volume_in_gb: int = 20,
    container_disk_in_gb: int = 10,
    ports: str = "22/tcp",
    network_volume_id: str | None = None,
    data_center_id: str | None = None,
    volume_mount_path: str = "/workspace",
    env: Mapping[str, str] | None = None,
    wait_seconds: float = 600.0,
    state_dir: Path | None = None,
) -> CreatedPod:
    """One pod on exactly this GPU.

    Returns when it has an SSH address (`wait_seconds=0`: at once).

    A pod that is not ready in time is terminated before PodNotReadyError is raised. Raises SpawnError.
    """
    clock = SystemClock()
    log = IntentFile((state_dir or Path(DEFAULT_STATE_DIR)).expanduser() / "intents.db")
    spec = PodSpec(
        name=name,
        image=image_name,
        gpu_id=gpu_type_id,
        gpu_count=gpu_count,
        mount_path=volume_mount_path,
        container_disk_gb=container_disk_in_gb,
        pod_volume_gb=0 if network_volume_id else volume_in_gb,
        env=dict(env or {}),
        ports=tuple(part.strip() for part in ports.split(",") if part.strip()),
    )
    only = Candidate(gpu_type_id, gpu_count, Cloud(cloud_type), data_center_id, network_volume_id)
    with _account(api_key) as provider, contextlib.closing(log):
        launcher = make_launcher(provider, log, clock, time.sleep)
        launched = launcher.launch(LaunchRequest(f"{name}/{ULID()}", spec, (only,)))
        if isinstance(launched, LaunchFailed):
            raise SpawnError(launched)
        pod = launched.pod
        if wait_seconds > 0:
            state = wait_until_ready(provider, pod.id, boot_seconds=wait_seconds, clock=clock, sleep=time.sleep)
            if isinstance(state, BootFailed):
                launcher.retire_and_terminate(launched.intent_name, pod.id)
                raise PodNotReadyError(f"pod {pod.id} was terminated: {state.reason}")
            pod = state.pod
        return {"id": pod.id, "name": pod.name, "details": pod_report(pod, "runpod")}


async def spawn_runpod_gpu(worker_id: str) -> str:
    """The new pod's id."""

    def spawn(client: RunpodClient) -> str:
        return client.spawn_worker(worker_id)["runpod_id"]

    return await asyncio.to_thread(_with_client, spawn)


async def terminate_runpod_gpu(runpod_id: str) -> bool:
    return await asyncio.to_thread(_with_client, lambda client: client.terminate_worker(runpod_id))


async def get_runpod_status(runpod_id: str) -> PodReport:
    return await asyncio.to_thread(_with_client, lambda client: client.get_pod_status(runpod_id))


def _with_client(use: Callable[[RunpodClient], T]) -> T:
    with contextlib.closing(create_runpod_client()) as client:
        return use(client)
