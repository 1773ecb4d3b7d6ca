"""What must hold before money is spent on a pod.

The pod must reach its queue, and this machine must reach the pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from pod_worker.pods.launch.launcher import LaunchRequest
from pod_worker.pods.runpod_settings import DEFAULT_IMAGE, RunpodSettings
from pod_worker.pods.ssh.login import SshError

QUEUE_ADDRESSES = {
    "MONGODB_URL": "the worker has no queue",
    "CONTROL_PLANE_URL": "the worker cannot deliver its events",
}
_MAKE_KEY = "make one with `ssh-keygen -t ed25519 -N '' -f pod_key` and set RUNPOD_SSH_PRIVATE_KEY_PATH=pod_key"


def launch_problems(settings: RunpodSettings, request: LaunchRequest) -> tuple[str, ...]:
    """Why a worker could not be set up on the pod, each with its fix.

    The list is empty when it can be.
    """
    return (*address_problems(settings, request.spec.env), *ssh_problems(settings), *_code_problems(settings))


def address_problems(settings: RunpodSettings, env: Mapping[str, str]) -> list[str]:
    """Addresses of the queue that are missing or unreachable from a pod."""
    problems = []
    for name, effect in QUEUE_ADDRESSES.items():
        if not env.get(name):
            problems.append(f"{name} is not set, so {effect}; set it to an address that the pod can reach")
        elif not has_local_pods(settings) and (local := [host for host in hosts_of(env[name]) if is_local(host)]):
            problems.append(
                f"{name} is unreachable from a pod: {local[0] or 'an empty host'} is the pod itself there; "
                "set it to a public address"
            )
    return problems


def ssh_problems(settings: RunpodSettings) -> list[str]:
    """Why this machine could not log in to the pod.

    The public key is derived where none is set.
    """
    try:
        key = settings.login.load_key()
    except SshError as error:
        return [str(error)]
    if key is None:
        return [f"no SSH key is set, so pod_worker cannot be installed on the pod; {_MAKE_KEY}"]
    if settings.ssh_public_key is not None and key.get_base64() not in settings.ssh_public_key:
        return [
            "the SSH public key does not belong to the private key; `ssh-keygen -y -f KEY` prints the right one"
        ]
    return []


def _code_problems(settings: RunpodSettings) -> list[str]:
    has_code = settings.code_url or settings.code_archive or settings.worker_image != DEFAULT_IMAGE
    if has_code:
        return []
    cause = "the default image contains no pod_worker, and this installation has no project folder to copy"
    fix = "set RUNPOD_CODE_URL to a git repository, or RUNPOD_WORKER_IMAGE to an image that contains it"
    return [f"{cause}; {fix}"]


def has_local_pods(settings: RunpodSettings) -> bool:
    """Whether pods run on this machine, as those of a fake RunPod on loopback."""
    return settings.root is not None and all(map(is_local, hosts_of(settings.root)))


def hosts_of(url: str) -> list[str]:
    """The host names in a URL; MongoDB URLs have several, separated by commas."""
    authority = url.partition("://")[2] or url
    for end in "/?#":
        authority = authority.partition(end)[0]
    return [_host_name(part) for part in authority.rpartition("@")[2].split(",")]


def is_local(host: str) -> bool:
    """Whether the host is the machine that resolves it: loopback or empty."""
    name = host.lower().rstrip(".")
    if name in ("", "localhost") or name.endswith((".localhost", ".localdomain")):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _host_name(text: str) -> str:
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return text
