"""How long things take in the fake cloud, and the few places where RunPod's behaviour varies or is not known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """All seconds are virtual."""

    provision_seconds: float = 2.0
    pull_seconds: float = 8.0
    start_seconds: float = 3.0
    """From a start of a stopped pod to RUNNING: its image is already there."""
    ready_seconds: float = 1.0
    """From RUNNING to the first IP and port."""
    stop_grace_seconds: float = 10.0
    """Between SIGTERM and SIGKILL when a pod is stopped or terminated."""
    billing_lag_seconds: float = 300.0
    """How far bills trail behind the clock."""
    restart_on_exit: bool = False
    """RunPod restarts a container whose command ended; here the pod EXITs unless this is set."""
    omitted_gpu_count_fails: bool = True
    """v2 documents a default of 1, and in practice finds no machine unless `gpu.count` is sent."""
    ssh_host: str | None = None
    ssh_port: int = 22
    """Where 22/tcp of every pod leads, when something real should answer there."""
