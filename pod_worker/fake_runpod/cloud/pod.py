"""A pod of the fake cloud as data: specification, state, allowed actions.

Each API surface translates its requests into a `PodSpec` and a `Pod` into its JSON. `simulator.py` changes pods.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

BILLED_WHILE = frozenset({"PROVISIONING", "STARTING", "RUNNING", "ERROR"})


class Status(StrEnum):
    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"


ACTIONS: dict[Status, tuple[str, ...]] = {
    Status.PROVISIONING: ("stop", "terminate"),
    Status.STARTING: ("stop", "terminate"),
    Status.RUNNING: ("stop", "restart", "terminate"),
    Status.EXITED: ("start", "terminate"),
    Status.ERROR: ("start", "terminate"),
    Status.TERMINATED: (),
}


@dataclass(slots=True)
class PodSpec:
    """The content of a create request, the same for all surfaces. Sizes are GB.

    `clouds`, `gpu_ids` and `data_center_ids` are preferences in order (v2 names one GPU)."""

    name: str
    image: str
    clouds: tuple[str, ...] = ("SECURE",)
    gpu_ids: tuple[str, ...] = ()
    gpu_count: int = 1
    cpu_id: str | None = None
    vcpu_count: int = 0
    data_center_ids: tuple[str, ...] = ()
    allowed_cuda: tuple[str, ...] = ()
    min_cuda: str | None = None
    args: str = ""
    start_cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    disk_gb: int = 50
    volume_gb: int = 0
    mount_path: str = "/workspace"
    network_volume_id: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    registry_id: str | None = None
    template_id: str | None = None
    interruptible: bool = False
    locked: bool = False
    global_networking: bool = False
    start_ssh: bool = False
    start_jupyter: bool = False
    stop_after_ns: int | None = None
    terminate_after_ns: int | None = None

    @property
    def is_cpu(self) -> bool:
        return self.cpu_id is not None


@dataclass(slots=True)
class InjectedFaults:
    """Faults that rules injected into one pod at its creation; seconds are virtual."""

    stuck: bool = False
    never_ready: bool = False
    error: str | None = None
    zero_gpu_on_start: bool = False
    pull_seconds: float | None = None
    notice_seconds: float = 5.0


@dataclass(slots=True)
class PortMapping:
    private: int
    public: int
    protocol: str
    ip: str


@dataclass(slots=True)
class Pod:
    """`generation` counts starts, stops and restarts.

    Timers and exit codes of an older generation are ignored.
    """

    id: str
    spec: PodSpec
    status: Status
    cloud: str
    data_center_id: str
    machine_id: str
    host_id: str
    api_key: str
    created_ns: int
    visible_ns: int
    gpu_id: str | None = None
    gpu_count: int = 0
    cuda_version: str | None = None
    started_ns: int | None = None
    ready: bool = False
    public_ip: str = ""
    mappings: list[PortMapping] = field(default_factory=list)
    rate_nano: int = 0
    """Nano-dollars per hour while billed, without disks."""
    memory_gb: int = 0
    vcpu_count: int = 0
    last_change: str = ""
    generation: int = 0
    injected_faults: InjectedFaults = field(default_factory=InjectedFaults)

    @property
    def actions(self) -> tuple[str, ...]:
        return ACTIONS[self.status]

    @property
    def cost_nano(self) -> int:
        """The pod's current cost as RunPod shows it: zero when EXITED or TERMINATED."""
        return self.rate_nano if self.status in BILLED_WHILE else 0
