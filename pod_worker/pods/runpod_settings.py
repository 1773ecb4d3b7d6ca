"""The settings of the RunPod client, under the names of the seed documents.

`from_env` is the only reader of the environment in this package; only composition roots call it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pod_worker.core.credentials.secret import InvalidSecretError, read_secret
from pod_worker.pods.pod import Cloud
from pod_worker.pods.runpod.connect import API_ROOTS, DEFAULT_API
from pod_worker.pods.ssh.login import SshLogin

DEFAULT_GPU = "NVIDIA GeForce RTX 4090"
DEFAULT_IMAGE = "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04"
"""Its torch must be at least what pyproject.toml requires; a test compares them."""
DEFAULT_STATE_DIR = "~/.pod_worker/pods"
WORKER_SECRETS = ("MONGODB_URL", "CONTROL_PLANE_URL", "CONTROL_PLANE_TOKEN")
"""Settings with which a worker reaches its queue; every pod gets those that are set here."""


class RunpodConfigurationError(ValueError):
    """A setting is missing or wrong; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class RunpodSettings:
    api_key: str = field(repr=False)
    api: str = DEFAULT_API
    root: str | None = None
    """Another API host, without a version in its path (the fake server, a proxy)."""
    gpu_types: tuple[str, ...] = (DEFAULT_GPU,)
    """Display names or ids, best first."""
    gpu_count: int = 1
    clouds: tuple[Cloud, ...] = (Cloud.SECURE,)
    data_centers: tuple[str, ...] = ()
    price_ceiling: float | None = None
    """USD per hour and pod."""
    worker_image: str = DEFAULT_IMAGE
    storage_name: str | None = None
    volume_mount_path: str = "/workspace"
    disk_size_gb: int = 20
    """Host-local pod volume; not used where a network volume is mounted."""
    container_disk_gb: int = 10
    ssh_public_key: str | None = None
    login: SshLogin = field(default_factory=SshLogin, repr=False)
    ssh_password: str = field(default="runpod", repr=False)
    worker_mode: str = "all"
    worker_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    code_dir: str = "/opt/pod_worker"
    code_url: str | None = None
    code_ref: str | None = None
    code_archive: bytes | None = field(default=None, repr=False)
    """The code as a .tar.gz, copied to the pod where its image has none."""
    require_gpu: bool = True
    state_dir: Path = Path(DEFAULT_STATE_DIR)
    """Pinned host keys and, without a database, the intent log."""


def from_env(environ: Mapping[str, str] | None = None) -> RunpodSettings:
    """Settings of the environment; an empty value counts as not set.

    Raises RunpodConfigurationError.
    """
    env = {name: value for name, value in (os.environ if environ is None else environ).items() if value}
    login = SshLogin(
        private_key_path=_path(env, "RUNPOD_SSH_PRIVATE_KEY_PATH"), private_key=env.get("RUNPOD_SSH_PRIVATE_KEY")
    )
    return RunpodSettings(
        api_key=_api_key(env),
        api=_one_of(env, "RUNPOD_REST_VERSION", DEFAULT_API, tuple(API_ROOTS)),
        root=_api_root(env),
        gpu_types=_list(env, "RUNPOD_GPU_TYPE") or (DEFAULT_GPU,),
        gpu_count=_whole(env, "RUNPOD_GPU_COUNT_WANTED", 1),
        clouds=tuple(Cloud(word) for word in _clouds(env)),
        data_centers=_list(env, "RUNPOD_DATA_CENTERS"),
        price_ceiling=_price(env, "RUNPOD_MAX_PRICE_PER_HOUR"),
        worker_image=env.get("RUNPOD_WORKER_IMAGE", DEFAULT_IMAGE),
        storage_name=env.get("RUNPOD_STORAGE_NAME"),
        volume_mount_path=env.get("RUNPOD_VOLUME_MOUNT_PATH", "/workspace"),
        disk_size_gb=_whole(env, "RUNPOD_DISK_SIZE_GB", 20),
        container_disk_gb=_whole(env, "RUNPOD_CONTAINER_DISK_GB", 10),
        ssh_public_key=_public_key(env),
        login=login,
        ssh_password=env.get("RUNPOD_SSH_PASSWORD", "runpod"),
        worker_mode=env.get("WORKER_MODE", "all"),
        worker_env={name: env[name] for name in WORKER_SECRETS if name in env},
        code_dir=env.get("RUNPOD_CODE_DIR", "/opt/pod_worker"),
        code_url=env.get("RUNPOD_CODE_URL"),
        code_ref=env.get("RUNPOD_CODE_REF"),
        require_gpu=env.get("POD_WORKER_SKIP_GPU") is None,
        state_dir=_expanded(env.get("RUNPOD_STATE_DIR", DEFAULT_STATE_DIR)),
    )


def _api_key(env: Mapping[str, str]) -> str:
    key, path = env.get("RUNPOD_API_KEY"), _path(env, "RUNPOD_API_KEY_FILE")
    if key is None and path is None:
        raise RunpodConfigurationError(
            "RUNPOD_API_KEY is not set; make one in the RunPod console under Settings, API Keys, and export it "
            "(or put it into a file and set RUNPOD_API_KEY_FILE)"
        )
    name = "RUNPOD_API_KEY" if path is None or key is not None else "RUNPOD_API_KEY_FILE"
    text = _text_of(path, name) if key is None and path is not None else str(key)
    try:
        return read_secret(text).reveal()
    except InvalidSecretError as error:
        raise RunpodConfigurationError(f"{name} {error}; set it to the key alone") from None


def _api_root(env: Mapping[str, str]) -> str | None:
    """RUNPOD_API_BASE_URL, without a password, because messages show it.

    No message shows an invalid address.
    """
    name, root = "RUNPOD_API_BASE_URL", env.get("RUNPOD_API_BASE_URL")
    if root is None:
        return None
    try:
        parts = urlsplit(root.strip())
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise RunpodConfigurationError(f"{name} is not an http or https address, such as https://api.example.com")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RunpodConfigurationError(
            f"{name} has a user, a password or a query; give scheme, host and port alone (the key: RUNPOD_API_KEY)"
        )
    return root.strip()


def _public_key(env: Mapping[str, str]) -> str | None:
    path = _path(env, "RUNPOD_SSH_PUBLIC_KEY_PATH")
    return env.get("RUNPOD_SSH_PUBLIC_KEY") if path is None else _text_of(path, "RUNPOD_SSH_PUBLIC_KEY_PATH")


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise RunpodConfigurationError(f"{name} points to {path}, which cannot be read as text") from None


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return _expanded(env[name]) if name in env else None


def _expanded(path: str) -> Path:
    """Without a home folder the tilde stays: only what needs the path fails."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Items separated by commas; spaces inside an item are kept."""
    return tuple(part.strip() for part in env.get(name, "").split(",") if part.strip())


def _clouds(env: Mapping[str, str]) -> tuple[str, ...]:
    words = _list(env, "RUNPOD_CLOUD_TYPE") or ("SECURE",)
    if "ALL" in words:
        return tuple(Cloud)
    for word in words:
        if word not in Cloud.__members__:
            raise RunpodConfigurationError(f"RUNPOD_CLOUD_TYPE={word!r}: use SECURE, COMMUNITY, both, or ALL")
    return words


def _one_of(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name, default)
    if value not in allowed:
        raise RunpodConfigurationError(f"{name}={value!r}: use one of {', '.join(allowed)}")
    return value


def _whole(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    if not text.isdigit():
        raise RunpodConfigurationError(f"{name}={text!r}: a whole number is needed")
    return int(text)


def _price(env: Mapping[str, str], name: str) -> float | None:
    if name not in env:
        return None
    try:
        price = float(env[name])
    except ValueError:
        price = -1.0
    if not 0 < price < math.inf:
        raise RunpodConfigurationError(f"{name}={env[name]!r}: a price in USD per hour is needed, e.g. 0.80")
    return price
