"""Durations of the fake cloud, and switches for uncertain behaviour.

Switches cover what varies at RunPod or is not known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """All seconds are virtual."""

    provision_seconds: float = 2.0
    pull_seconds: float = 8.0
    start_seconds: float = 3.0
    """From a start of a stopped pod to RUNNING; its image is already pulled."""
    ready_seconds: float = 1.0
    """From RUNNING to the first IP and port."""
    stop_grace_seconds: float = 10.0
    """Between SIGTERM and SIGKILL when a pod is stopped or terminated."""
    billing_lag_seconds: float = 300.0
    """How far bills lag behind the clock."""
    restart_on_exit: bool = False
    """Restart a container whose command ended, as RunPod does; by default the pod becomes EXITED."""
    omitted_gpu_count_fails: bool = True
    """Find no machine without `gpu.count`: v2 documents a default of 1 but behaves so in practice."""
    ssh_host: str | None = None
    ssh_port: int = 22
    """The real sshd that 22/tcp of every pod is mapped to; None: no real sshd."""
