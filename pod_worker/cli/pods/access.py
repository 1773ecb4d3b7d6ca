"""`pod-worker pods ssh` and `pods doctor`.

They log in to a pod, and check the set-up for renting pods.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import Number, json_option
from pod_worker.cli.output import is_terminal, print_json, print_table, say

if TYPE_CHECKING:
    from pod_worker.cli.pods.session import PodAccount
    from pod_worker.pods.pod import SshAddress

Finding = tuple[str, str, str]
"""What was checked; ok, warn or bad; the cause and the fix."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("pod_id")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--forget-host-key", is_flag=True, help="Accept a new host key after a stop and start.")
@click.option(
    "--timeout", type=Number(0.1, 604_800), default=600.0, show_default=True, help="Seconds for COMMAND."
)
def ssh(pod_id: str, command: tuple[str, ...], forget_host_key: bool, timeout: float) -> int:
    """Run COMMAND on a pod and stream its output; without one, open a shell."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        if forget_host_key:
            account.pins.forget(pod_id)
            _known_hosts(account, pod_id).unlink(missing_ok=True)
        address = account.pod(pod_id).ssh
        if address is None:
            raise CommandError(
                f"pod {pod_id} has no SSH address yet. Wait until it is RUNNING, and create it with port 22/tcp",
                ExitCode.TEMPORARY,
            )
        if not command:
            return _shell(account, pod_id, address)
        return _run(account, pod_id, address, " ".join(command), timeout)


def _run(account: PodAccount, pod_id: str, address: SshAddress, command: str, timeout: float) -> int:
    from pod_worker.pods.ssh.client import SSHClient

    def show(stream: str, text: str) -> None:
        click.echo(text, nl=False, err=stream == "stderr")

    with SSHClient(address, account.settings.login, pod_id=pod_id, pins=account.pins) as client:
        result = client.run(command, timeout_seconds=timeout, on_output=show)
    if result.timed_out:
        raise CommandError(
            f"timed out after {timeout:g} s; the command was killed on the pod. Raise --timeout",
            ExitCode.TEMPORARY,
        )
    return result.exit_code if result.exit_code >= 0 else ExitCode.FAILED


def _shell(account: PodAccount, pod_id: str, address: SshAddress) -> int:
    """An interactive shell through the system's ssh, with its own host key pin."""
    known = _known_hosts(account, pod_id)
    words = ["ssh", "-p", str(address.port), "-o", f"UserKnownHostsFile={known}"]
    words += ["-o", f"HostKeyAlias=pod-{pod_id}", "-o", "StrictHostKeyChecking=accept-new"]
    if (key := account.settings.login.private_key_path) is not None:
        words += ["-i", str(key)]
    words.append(f"{address.username}@{address.host}")
    if not (is_terminal() and sys.stdin.isatty() and shutil.which("ssh")):
        click.echo(shlex.join(words))
        return ExitCode.OK
    known.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run(words, check=False).returncode


def _known_hosts(account: PodAccount, pod_id: str) -> Path:
    from pod_worker.pods.runpod.transport import path_segment

    return account.settings.state_dir.expanduser() / "known_hosts" / path_segment(pod_id)


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check API key, GPUs, volume, SSH key, worker settings and left-over pods."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        findings = [*_api(account), *_gpus(account), *_volume(account), *_ssh_keys(account), *_worker(account)]
        findings += _leftovers(account)
    if as_json:
        print_json([{"check": check, "result": result, "found": found} for check, result, found in findings])
    else:
        styles = {"RESULT": {"ok": "green", "warn": "yellow", "bad": "bold red"}}
        print_table(("RESULT", "CHECK", "FOUND"), [(r, c, f) for c, r, f in findings], styles)
    is_bad = any(result == "bad" for _, result, _ in findings)
    say("fix the checks marked bad" if is_bad else "ready to rent pods")
    return ExitCode.FAILED if is_bad else ExitCode.OK


def _api(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.provider import Known

    settings = account.settings
    where = f"{settings.api} at {settings.root or 'RunPod'}"
    listing = account.provider.list()
    if isinstance(listing, Known):
        cost = sum(pod.cost_per_hour or 0.0 for pod in listing.value)
        return [("api", "ok", f"{where}: {len(listing.value)} pods, ${cost:.2f}/h")]
    return [("api", "bad", f"{where}: {listing.error}. Fix: {listing.error.remedy.value}")]


def _gpus(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.launch_requests import NotAvailableError, gpu_id_of
    from pod_worker.pods.provider import Unknown

    read = account.provider.catalogue()
    if isinstance(read, Unknown):
        return [("gpu", "warn", f"no catalogue: {read.error}")]
    findings: list[Finding] = []
    for wanted in account.settings.gpu_types:
        try:
            offer = read.value.gpu(gpu_id_of(wanted, read.value))
        except NotAvailableError as unknown:
            findings.append(("gpu", "bad", str(unknown)))
            continue
        assert offer is not None, "gpu_id_of found it"
        shown = ", ".join(
            f"{cloud.value} ${price:.2f}/h stock {offer.stock[cloud].value}"
            for cloud, price in offer.price_per_hour.items()
        )
        is_scarce = all(offer.stock[cloud].value == "NONE" for cloud in offer.stock)
        findings.append(("gpu", "warn" if is_scarce else "ok", f"{offer.id}: {shown}"))
    return findings


def _volume(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.provider import Unknown

    name = account.settings.storage_name
    if name is None:
        return [("volume", "ok", "none requested (RUNPOD_STORAGE_NAME is not set)")]
    listing = account.provider.volumes()
    if isinstance(listing, Unknown):
        return [("volume", "bad", f"cannot be read: {listing.error}")]
    found = [volume for volume in listing.value if volume.name == name]
    if not found:
        names = ", ".join(volume.name for volume in listing.value) or "none"
        return [("volume", "bad", f"no volume is named {name!r}; there are: {names}")]
    return [("volume", "ok", f"{each.name}: {each.size_gb} GB in {each.data_center_id}") for each in found]


def _ssh_keys(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.preconditions import ssh_problems

    settings = account.settings
    if problems := ssh_problems(settings):
        return [("ssh key", "bad", "; ".join(problems))]
    key = settings.login.load_key()
    origin = "both halves match" if settings.ssh_public_key else "its public half goes to the pod"
    return [("ssh key", "ok", f"{key.get_name() if key else ''}, {origin}")]


def _worker(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.preconditions import address_problems

    env = account.settings.worker_env
    if problems := address_problems(account.settings, env):
        return [("worker", "bad", "; ".join(problems))]
    return [("worker", "ok", f"passed on: {', '.join(sorted(env))}")]


def _leftovers(account: PodAccount) -> list[Finding]:
    from pod_worker.pods.launch.sweep import sweep

    report = sweep(account.provider, account.log, clock=account.clock, limit=0)
    if report.list_error:
        return [("left-over pods", "warn", "unknown: the pods of the account cannot be listed")]
    if report.unwanted:
        names = ", ".join(pod.id for pod in report.unwanted)
        return [
            (
                "left-over pods",
                "bad",
                f"{names} are billed but belong to no active launch request; run: pod-worker pods sweep",
            )
        ]
    return [("left-over pods", "ok", f"none; {len(report.unknown_pods)} pods were created by other tools")]
