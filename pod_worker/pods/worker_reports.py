"""The return shapes of the classic client.

Dictionaries with fixed keys, because the calling orchestrators store and compare them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

from pod_worker.pods.pod import Pod, PodStatus, SshAddress


class PortEntry(TypedDict):
    privatePort: int
    publicPort: int | None
    ip: str | None


class PodReport(TypedDict):
    """Result of `get_pod_status`.

    Unknown values are None; `error` has the reason for UNKNOWN.
    """

    runpod_id: str
    desired_status: str
    """RUNNING, PROVISIONING, EXITED, FAILED, TERMINATED, or UNKNOWN while the provider cannot be read."""
    actual_status: str
    ip: str | None
    ports: list[PortEntry]
    ssh_password: str
    created_at: str | None
    uptime_seconds: int | None
    cost_per_hr: float | None
    error: NotRequired[str]


class SshDetails(TypedDict):
    ip: str
    port: int
    username: str


class WorkerReport(TypedDict):
    status: Literal["spawning", "active", "error"]
    ssh_details: NotRequired[SshDetails]
    error: NotRequired[str]
    note: NotRequired[str]


class SpawnedWorker(TypedDict):
    runpod_id: str
    worker_id: str
    status: Literal["spawning"]
    pod_name: str
    gpu_type: str
    cost_per_hr: float | None
    pod_details: PodReport


DESIRED_STATUS: Mapping[PodStatus, str] = {
    PodStatus.PROVISIONING: "PROVISIONING",
    PodStatus.STARTING: "RUNNING",
    PodStatus.RUNNING: "RUNNING",
    PodStatus.EXITED: "EXITED",
    PodStatus.ERROR: "FAILED",
    PodStatus.TERMINATED: "TERMINATED",
    PodStatus.UNRECOGNISED: "UNKNOWN",
}


def pod_report(pod: Pod, ssh_password: str) -> PodReport:
    report = empty_report(pod.id, DESIRED_STATUS[pod.status], pod.status.value, ssh_password)
    report["ip"] = pod.ssh.host if pod.ssh else next((p.ip for p in pod.ports if p.ip), None)
    report["ports"] = [{"privatePort": p.private, "publicPort": p.public, "ip": p.ip} for p in pod.ports]
    report["created_at"] = _stamp(pod.created_at)
    report["uptime_seconds"] = pod.uptime_seconds
    report["cost_per_hr"] = pod.cost_per_hour
    return report


def ssh_details(address: SshAddress) -> SshDetails:
    return {"ip": address.host, "port": address.port, "username": address.username}


def empty_report(runpod_id: str, desired: str, actual: str, password: str) -> PodReport:
    return {
        "runpod_id": runpod_id,
        "desired_status": desired,
        "actual_status": actual,
        "ip": None,
        "ports": [],
        "ssh_password": password,
        "created_at": None,
        "uptime_seconds": None,
        "cost_per_hr": None,
    }


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
