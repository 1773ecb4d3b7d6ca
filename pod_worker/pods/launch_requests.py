"""From settings to a launch request: GPUs, placements, volume and environment.

GPU and volume names are resolved here; for an unknown name the error lists the existing ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pod_worker.pods.catalogue import Catalogue, Volume
from pod_worker.pods.launch.candidates import PlacementPreferences, rank_candidates
from pod_worker.pods.launch.launcher import LaunchRequest
from pod_worker.pods.pod import PodSpec
from pod_worker.pods.provider import Known, PodProvider, Unknown
from pod_worker.pods.runpod_settings import RunpodSettings
from pod_worker.pods.ssh.bootstrap_scripts import BootstrapPlan

_CUDA_TAG = re.compile(r"(?:^|-)(?:cuda(?=\d+\.)|cu(?=\d{4}))(?P<major>\d\d)\.?(?P<minor>\d+?)(?:\.\d+|\d)(?:-|$)")


class NotAvailableError(Exception):
    """A GPU type or volume does not exist, or could not be looked up."""


def worker_launch_request(
    settings: RunpodSettings, provider: PodProvider, worker_id: str, worker_env: Mapping[str, str]
) -> LaunchRequest:
    """The worker id is the request's id and the prefix of the pod's name.

    Raises NotAvailableError.
    """
    read = provider.catalogue()
    catalogue = read.value if isinstance(read, Known) else None
    preferences = PlacementPreferences(
        gpus=tuple(gpu_id_of(name, catalogue) for name in settings.gpu_types),
        gpu_count=settings.gpu_count,
        clouds=settings.clouds,
        data_centers=settings.data_centers,
        volumes=_wanted_volumes(settings, provider),
        price_ceiling=settings.price_ceiling,
    )
    spec = PodSpec(
        name=worker_id,
        image=settings.worker_image,
        gpu_id=preferences.gpus[0],
        gpu_count=settings.gpu_count,
        mount_path=settings.volume_mount_path,
        container_disk_gb=settings.container_disk_gb,
        pod_volume_gb=0 if preferences.volumes else settings.disk_size_gb,
        env=worker_environment(settings, worker_id, worker_env),
        min_cuda_version=cuda_version_of(settings.worker_image),
    )
    return LaunchRequest(worker_id, spec, rank_candidates(preferences, catalogue), settings.price_ceiling)


def cuda_version_of(image: str) -> str | None:
    """The CUDA version in an image's tag: `cuda12.8.1`, `cu1281`; else None.

    A host with an older driver starts the container and then fails every CUDA call.
    """
    tag = image.partition("@")[0].rpartition(":")[2]
    found = _CUDA_TAG.search(tag)
    return f"{found['major']}.{found['minor']}" if found else None


def gpu_id_of(wanted: str, catalogue: Catalogue | None) -> str:
    """The GPU id of an id or display name; without a catalogue the name itself."""
    if catalogue is None:
        return wanted
    offer = catalogue.gpu(wanted)
    if offer is None:
        names = ", ".join(sorted(offer.name for offer in catalogue.gpus))
        raise NotAvailableError(f"no GPU type is called {wanted!r} (RUNPOD_GPU_TYPE); there are: {names}")
    return offer.id


def _wanted_volumes(settings: RunpodSettings, provider: PodProvider) -> tuple[Volume, ...]:
    name = settings.storage_name
    if name is None:
        return ()
    listing = provider.volumes()
    if isinstance(listing, Unknown):
        raise NotAvailableError(f"network volume {name!r} cannot be looked up: {listing.error}")
    found = tuple(volume for volume in listing.value if volume.name == name)
    if not found:
        names = ", ".join(sorted(volume.name for volume in listing.value)) or "none"
        raise NotAvailableError(f"no network volume is named {name!r} (RUNPOD_STORAGE_NAME); there are: {names}")
    return found


def worker_environment(
    settings: RunpodSettings, worker_id: str, worker_env: Mapping[str, str]
) -> Mapping[str, str]:
    env = {"WORKER_ID": worker_id, **settings.worker_env, **worker_env}
    if public_key := settings.ssh_public_key or settings.login.public_key():
        env.setdefault("PUBLIC_KEY", public_key)
        env.setdefault("RUNPOD_POD_USER", "0")  # images that run as another user break root's SSH
    return env


def bootstrap_of(settings: RunpodSettings) -> BootstrapPlan:
    return BootstrapPlan(
        mount_path=settings.volume_mount_path,
        code_dir=settings.code_dir,
        code_url=settings.code_url,
        code_ref=settings.code_ref,
        code_archive=settings.code_archive,
        gpu_count=settings.gpu_count,
    )
