"""The customer's account: keys, balance, secrets, volumes, templates.

Spending is computed by `billing/ledger.py` and enforced by `simulator.py`.
"""

from __future__ import annotations

import hmac
import secrets as random_secrets
from dataclasses import dataclass, field


def random_api_key() -> str:
    return f"rpa_fake_{random_secrets.token_urlsafe(24)}"


@dataclass(slots=True)
class Volume:
    """A network volume; size in GB, type STANDARD or HIGH_PERFORMANCE."""

    id: str
    name: str
    size_gb: int
    data_center_id: str
    type: str


@dataclass(slots=True)
class Template:
    id: str
    name: str
    image: str
    args: str = ""
    start_cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    disk_gb: int = 50
    volume_gb: int = 0
    mount_path: str = "/workspace"
    env: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    registry_id: str | None = None
    category: str = "NVIDIA"
    is_public: bool = False
    is_serverless: bool = False
    is_runpod: bool = False
    start_ssh: bool = True
    start_jupyter: bool = True
    allowed_cuda: tuple[str, ...] = ()
    readme: str = ""


@dataclass(slots=True)
class Registry:
    """Credentials of a container registry; the password is never kept."""

    id: str
    name: str


@dataclass(slots=True)
class Account:
    """`balance_usd` is the sum paid in; spending is subtracted from it.

    At zero, pods with a network volume stop and the others are destroyed. A create needs one hour of credit and
    must stay under the spend limit.
    """

    api_keys: list[str] = field(default_factory=list)
    id: str = "user_2fake0000000000000000000"
    email: str = "renter@example.invalid"
    balance_usd: float = 1_000_000.0
    spend_limit_usd_per_hour: float = 80.0
    ssh_keys: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    registries: dict[str, Registry] = field(default_factory=dict)

    def knows_key(self, key: str) -> bool:
        return any(hmac.compare_digest(key.encode(), known.encode()) for known in self.api_keys)
