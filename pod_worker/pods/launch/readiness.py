"""Whether a pod is ready: RUNNING, with an SSH address, before its boot deadline.

RUNNING alone is not enough, because the image may still be pulling. A failed read changes nothing. A pod that is
not ready by the deadline is reported as BootFailed; this module terminates nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pod_worker.core.clock import Clock
from pod_worker.pods.pod import Pod, PodStatus, SshAddress
from pod_worker.pods.provider import Absent, Known, PodProvider, ReadResult, Unknown

BOOT_SECONDS = 1200.0
"""A 16 GB image takes minutes on a cold host; after 20 minutes the cause is another."""


@dataclass(frozen=True, slots=True)
class Ready:
    pod: Pod
    ssh: SshAddress


@dataclass(frozen=True, slots=True)
class Booting:
    """Not ready yet, or not known. `note` describes the last read."""

    note: str


@dataclass(frozen=True, slots=True)
class BootFailed:
    """The pod will not become ready; `reason` names the cause and the fix."""

    reason: str


Readiness = Ready | Booting | BootFailed
_OVER = frozenset({PodStatus.EXITED, PodStatus.ERROR, PodStatus.TERMINATED})


def classify_boot(read: ReadResult[Pod], *, age_seconds: float, boot_seconds: float = BOOT_SECONDS) -> Readiness:
    """`age_seconds`: since the create was sent.

    A young pod that is not found is still booting.
    """
    match read:
        case Unknown(error):
            return Booting(f"the provider cannot be read: {error}")
        case Known(pod) if pod.status in _OVER:
            return BootFailed(
                f"pod {pod.id} is {pod.status_word}; `pod-worker pods logs {pod.id}` may show the cause: an image "
                "that cannot be pulled, a start command that fails, a disk that is too small, or a CUDA version "
                "that the host lacks"
            )
        case Known(pod) if pod.status is PodStatus.RUNNING and pod.ssh is not None:
            return Ready(pod, pod.ssh)
        case Known(pod):
            note = f"{pod.status_word}, no SSH port mapped yet"
        case Absent():
            note = "the provider does not show the pod"
            if age_seconds >= 120.0:
                return BootFailed(f"{note} after {age_seconds:.0f} s: it is gone")
    if age_seconds >= boot_seconds:
        return BootFailed(
            f"not ready after {age_seconds:.0f} s ({note}); replace the pod: another host, a smaller image, and "
            "22/tcp among its ports"
        )
    return Booting(note)


def wait_until_ready(
    provider: PodProvider,
    pod_id: str,
    *,
    boot_seconds: float = BOOT_SECONDS,
    every_seconds: float = 5.0,
    clock: Clock,
    sleep: Callable[[float], None],
) -> Ready | BootFailed:
    """Poll until ready or failed.

    Ends after `boot_seconds` at the latest, also when reads fail.
    """
    start = clock.monotonic()
    while True:
        age = clock.monotonic() - start
        state = classify_boot(provider.get(pod_id), age_seconds=age, boot_seconds=boot_seconds)
        if not isinstance(state, Booting):
            return state
        if age >= boot_seconds:
            return BootFailed(f"not ready after {age:.0f} s: {state.note}")
        sleep(min(every_seconds, boot_seconds - age))
