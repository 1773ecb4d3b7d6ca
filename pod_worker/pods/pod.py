"""A pod as we ask for it (`PodSpec`) and as a provider shows it (`Pod`).

Only fields that all supported APIs have; wire names are in the adapters. Environment values are secrets and
never appear in a repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

MAX_ENV_VARIABLES = 50
MAX_HTTP_PORTS = 10
MAX_NAME_LENGTH = 60
MAX_ENV_VALUE_BYTES = 128 * 1024
"""Linux refuses to exec with a longer single string (MAX_ARG_STRLEN)."""


class Cloud(StrEnum):
    SECURE = "SECURE"
    COMMUNITY = "COMMUNITY"


class PodStatus(StrEnum):
    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"
    UNRECOGNISED = "UNRECOGNISED"
    """The provider's status word is unknown; it must not lead to a termination."""

    @property
    def is_gone(self) -> bool:
        return self is PodStatus.TERMINATED


# REST v2's six statuses, the GraphQL PodStatus enum (also REST v1's desiredStatus), and statuses in older clients.
STATUS_WORDS: Mapping[str, PodStatus] = {
    "PROVISIONING": PodStatus.PROVISIONING,
    "CREATED": PodStatus.PROVISIONING,
    "PENDING": PodStatus.PROVISIONING,
    "STARTING": PodStatus.STARTING,
    "RESTARTING": PodStatus.STARTING,
    "RUNNING": PodStatus.RUNNING,
    "EXITED": PodStatus.EXITED,
    "STOPPED": PodStatus.EXITED,
    "PAUSED": PodStatus.EXITED,
    "ERROR": PodStatus.ERROR,
    "FAILED": PodStatus.ERROR,
    "DEAD": PodStatus.ERROR,
    "TERMINATED": PodStatus.TERMINATED,
}


def status_of(word: str) -> PodStatus:
    """Total: an unknown word is UNRECOGNISED, never an error or a guess."""
    return STATUS_WORDS.get(word.strip().upper(), PodStatus.UNRECOGNISED)


@dataclass(frozen=True, slots=True)
class PortMapping:
    private: int
    public: int | None
    ip: str | None
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class SshAddress:
    host: str
    port: int
    username: str = "root"


@dataclass(frozen=True, slots=True)
class Pod:
    id: str
    name: str
    status: PodStatus
    status_word: str
    """The provider's own word, for messages and logs."""
    image: str = ""
    gpu_id: str = ""
    gpu_count: int = 0
    cloud: Cloud | None = None
    data_center_id: str | None = None
    volume_id: str | None = None
    cost_per_hour: float | None = None
    """USD for the whole pod; None when the provider did not say."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    uptime_seconds: int | None = None
    ports: tuple[PortMapping, ...] = ()
    ssh: SshAddress | None = None
    """Direct TCP address of the pod's own sshd; None until a public port is mapped. RUNNING alone is not ready."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod to create, with its placement.

    `name` must be unique per create (see launch/launcher.py).
    """

    name: str
    image: str
    gpu_id: str
    gpu_count: int = 1
    cloud: Cloud = Cloud.SECURE
    data_center_id: str | None = None
    volume_id: str | None = None
    mount_path: str = "/workspace"
    container_disk_gb: int = 50
    pod_volume_gb: int = 0
    """Host-local volume, lost with the host; 0: none. Ignored where a network volume is mounted."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ports: tuple[str, ...] = ("22/tcp",)
    start_command: tuple[str, ...] = ()
    template_id: str | None = None
    registry_id: str | None = None
    min_cuda_version: str | None = None


_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_URL\Z|_URI\Z|DSN", re.IGNORECASE)
_PORT = re.compile(r"(\d{1,5})/(http|tcp)\Z")


def problems_of(spec: PodSpec) -> tuple[str, ...]:
    """Everything that a provider rejects or that leaks a secret, each with its fix.

    The list is empty when the spec is valid.
    """
    return (*_shape_problems(spec), *_port_problems(spec), *_env_problems(spec), *_leak_problems(spec))


def _shape_problems(spec: PodSpec) -> list[str]:
    found = []
    if not 1 <= len(spec.name) <= MAX_NAME_LENGTH:
        found.append(f"pod name has {len(spec.name)} characters; use 1 to {MAX_NAME_LENGTH}")
    if not spec.image and not spec.template_id:
        found.append("neither an image nor a template is given; name one of them")
    if not spec.gpu_id:
        found.append("no GPU type is given; `pod-worker pods gpus` lists the ids")
    if spec.gpu_count < 1:
        found.append(f"gpu_count is {spec.gpu_count}; at least 1 is needed")
    if spec.container_disk_gb < 1:
        found.append(f"container disk is {spec.container_disk_gb} GB; at least 1 is needed")
    if spec.volume_id is not None and spec.cloud is not Cloud.SECURE:
        found.append("network volumes exist in the Secure Cloud only; use cloud SECURE or drop the volume")
    if spec.pod_volume_gb and not spec.volume_id and spec.pod_volume_gb < 10:
        found.append(f"pod volume is {spec.pod_volume_gb} GB; the provider's floor is 10 (or 0 for none)")
    return found


def _port_problems(spec: PodSpec) -> list[str]:
    found = [
        f"port {port!r} is not of the form 22/tcp or 8888/http (there is no UDP)"
        for port in spec.ports
        if not _PORT.match(port)
    ]
    if sum(port.endswith("/http") for port in spec.ports) > MAX_HTTP_PORTS:
        found.append(f"more than {MAX_HTTP_PORTS} HTTP ports; the provider's limit is {MAX_HTTP_PORTS}")
    return found


def _env_problems(spec: PodSpec) -> list[str]:
    found = []
    if len(spec.env) > MAX_ENV_VARIABLES:
        found.append(
            f"{len(spec.env)} environment variables; the provider's limit is {MAX_ENV_VARIABLES}: "
            "move settings into a file on the volume or into a template"
        )
    for name, value in spec.env.items():
        if not _ENV_NAME.match(name):
            found.append(f"{name!r} is not a usable environment variable name")
        elif "\0" in value:
            found.append(f"the value of {name} holds a NUL character, which no environment can carry")
        elif len(value.encode()) > MAX_ENV_VALUE_BYTES:
            found.append(
                f"the value of {name} is over {MAX_ENV_VALUE_BYTES} bytes; put it into a file on the volume"
            )
    return found


def _leak_problems(spec: PodSpec) -> list[str]:
    """Secrets in the start command: the provider stores and shows it as plain text."""
    command = "\n".join(spec.start_command)
    return [
        f"the value of {name} appears in the start command, which everyone with console access can read; "
        f"refer to it as ${name} instead"
        for name, value in spec.env.items()
        if len(value) >= 6 and _SECRET_NAME.search(name) and value in command
    ]
