"""`pod-worker pods create`: plan, question, launch, worker.

No money is spent before the plan is confirmed. Environment values are never shown.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode, exit_code_for
from pod_worker.cli.output import is_terminal, print_json, print_table, say
from pod_worker.core.run import Json

if TYPE_CHECKING:
    from pod_worker.cli.pods.session import PodAccount
    from pod_worker.pods.launch.launcher import LaunchFailed, LaunchRequest
    from pod_worker.pods.runpod_settings import RunpodSettings


def confirm(question: str, yes: bool) -> None:
    """Ask unless `yes`.

    Raises click.Abort on no, and a usage error if stdin is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"{question} stdin is not a terminal, so the question cannot be asked; pass --yes", ExitCode.USAGE
        )
    click.confirm(question, abort=True, err=True)


@click.command()
@click.argument("name", default="pod-worker")
@click.option(
    "--gpu", "gpus", multiple=True, help="Name or id; repeat it for fallbacks. [default: RUNPOD_GPU_TYPE]"
)
@click.option("--gpu-count", type=click.IntRange(1), help="GPUs per pod.")
@click.option("--cloud", type=click.Choice(["SECURE", "COMMUNITY", "ALL"]), help="[default: SECURE]")
@click.option("--data-center", "centers", multiple=True, help="Preferred places, best first.")
@click.option("--volume", help="Network volume by name; fixes the place. [default: RUNPOD_STORAGE_NAME]")
@click.option("--image", help="[default: RUNPOD_WORKER_IMAGE]")
@click.option("--disk-gb", type=click.IntRange(1), help="Container disk.")
@click.option("--env", "-e", "pairs", multiple=True, metavar="NAME=VALUE", help="One more variable for the pod.")
@click.option("--command", metavar="WORDS", help="Start this in the container instead of the image's own command.")
@click.option("--max-price", type=float, metavar="USD", help="Never rent a pod that costs more per hour.")
@click.option("--mode", help="The worker's mode. [default: WORKER_MODE or experiment]")
@click.option("--up", "bring_up", is_flag=True, help="Wait for SSH, install pod_worker and start the worker.")
@click.option("--dry-run", is_flag=True, help="Show the plan and spend nothing.")
@click.option("--yes", "-y", is_flag=True, help="Rent without asking.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def create(
    name: str,
    gpus: tuple[str, ...],
    gpu_count: int | None,
    cloud: str | None,
    centers: tuple[str, ...],
    volume: str | None,
    image: str | None,
    disk_gb: int | None,
    pairs: tuple[str, ...],
    command: str | None,
    max_price: float | None,
    mode: str | None,
    bring_up: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Rent one pod for a worker; prints the pod's id.

    NAME begins the pod's name. Creating the same NAME again while its pod lives gives that pod.
    """
    from pod_worker.cli.pods.session import open_account
    from pod_worker.pods.launch.launcher import LaunchFailed
    from pod_worker.pods.launch_requests import worker_launch_request

    with open_account() as account:
        given: dict[str, Json] = {
            "gpu_types": gpus,
            "gpu_count": gpu_count,
            "clouds": _clouds(cloud),
            "data_centers": centers,
            "storage_name": volume,
            "worker_image": image,
            "container_disk_gb": disk_gb,
            "price_ceiling": max_price,
            "worker_mode": mode,
        }
        account.settings = replace(account.settings, **{key: value for key, value in given.items() if value})
        request = worker_launch_request(account.settings, account.provider, name, _pairs(pairs))
        if command:
            request = replace(request, spec=replace(request.spec, start_command=tuple(shlex.split(command))))
        _show_plan(account.settings, request, as_json and dry_run)
        if not request.candidates:
            raise CommandError(
                "no GPU fits: none is offered there, or all cost more than --max-price", ExitCode.BUDGET
            )
        if dry_run:
            return ExitCode.OK
        confirm("Rent this pod? It bills until it is terminated.", yes)
        result = account.launcher().launch(request)
        if isinstance(result, LaunchFailed):
            raise CommandError(_describe_failure(result), _exit_of(result))
        pod = result.pod
        if as_json:
            print_json({"id": pod.id, "name": pod.name, "gpu": pod.gpu_id, "usd_per_hour": pod.cost_per_hour})
        else:
            click.echo(pod.id)
        say(f"rented: {pod.name}; give it back with: pod-worker pods terminate {pod.id}")
        return _bring_up(account, name, pod.id) if bring_up else ExitCode.OK


def _clouds(word: str | None) -> tuple[Json, ...]:
    from pod_worker.pods.pod import Cloud

    if word is None:
        return ()
    return tuple(Cloud) if word == "ALL" else (Cloud(word),)


def _pairs(pairs: tuple[str, ...]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise CommandError(f"--env {pair.split()[0]!r}: write NAME=VALUE", ExitCode.USAGE)
    return {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}


def _show_plan(settings: RunpodSettings, request: LaunchRequest, as_json: bool) -> None:
    spec = request.spec
    if as_json:
        print_json(
            {
                "order": request.id,
                "image": spec.image,
                "container_disk_gb": spec.container_disk_gb,
                "pod_volume_gb": spec.pod_volume_gb,
                "mount_path": spec.mount_path,
                "ports": list(spec.ports),
                "command": list(spec.start_command),
                "env_names": sorted(spec.env),
                "price_ceiling": request.price_ceiling,
                "api": settings.api,
                "candidates": [
                    {
                        "gpu": each.gpu_id,
                        "gpu_count": each.gpu_count,
                        "cloud": each.cloud.value,
                        "data_center": each.data_center_id,
                        "volume": each.volume_id,
                        "usd_per_hour": each.price_per_hour,
                    }
                    for each in request.candidates
                ],
            }
        )
        return
    say(f"plan: one pod for {request.id!r} from {settings.root or 'RunPod'} ({settings.api}), the first of these:")
    if is_terminal():
        print_table(("", "PLACE"), [(str(n), str(each)) for n, each in enumerate(request.candidates, 1)])
    else:
        for each in request.candidates:
            say(f"  {each}")
    say(f"  image {spec.image}, disk {spec.container_disk_gb} GB, volume {spec.mount_path}")
    say(f"  env (values not shown): {', '.join(sorted(spec.env))}")
    if spec.start_command:
        say(f"  command: {shlex.join(spec.start_command)}")
    if any("127.0.0.1" in value or "localhost" in value for value in spec.env.values()) and not settings.root:
        say("  warning: an address of this machine (127.0.0.1) is among the values; a rented pod cannot reach it")


def _describe_failure(result: LaunchFailed) -> str:
    tried = "".join(f"\n  {failed.candidate}: {failed.message}" for failed in result.failed_candidates)
    return f"{result.reason.value}: {result.detail}{tried}"


def _exit_of(result: LaunchFailed) -> ExitCode:
    from pod_worker.pods.launch.launcher import LaunchFailureReason

    if result.error is not None:
        return exit_code_for(result.error)[0]
    codes = {
        LaunchFailureReason.NO_CANDIDATE: ExitCode.NO_CAPACITY,
        LaunchFailureReason.NO_CAPACITY: ExitCode.NO_CAPACITY,
        LaunchFailureReason.INVALID: ExitCode.USAGE,
        LaunchFailureReason.STOPPED: ExitCode.FAILED,
        LaunchFailureReason.UNCLEAR: ExitCode.TEMPORARY,
        LaunchFailureReason.TAKEN: ExitCode.TEMPORARY,
    }
    return codes[result.reason]


def _bring_up(account: PodAccount, worker_id: str, pod_id: str) -> int:
    import time

    from pod_worker.pods.launch.readiness import BootFailed, wait_until_ready

    say("waiting for the pod to boot (the image may take minutes)")
    state = wait_until_ready(account.provider, pod_id, clock=account.clock, sleep=time.sleep)
    if isinstance(state, BootFailed):
        raise CommandError(
            f"{state.reason}\nit still bills: pod-worker pods terminate {pod_id}", ExitCode.TEMPORARY
        )
    client = account.client()
    try:
        report = client.check_and_initialize_worker(worker_id, pod_id)
        while report["status"] == "spawning":
            say(f"not yet: {report.get('note', '')}")
            time.sleep(5)
            report = client.check_and_initialize_worker(worker_id, pod_id)
        if report["status"] == "error":
            raise CommandError(f"{report['error']}\nit still bills: pod-worker pods terminate {pod_id}")
        if not client.start_worker_process(pod_id, worker_id):
            raise CommandError(f"the worker did not start; look with: pod-worker pods ssh {pod_id}")
    finally:
        client.close()
    say(f"the worker runs on {pod_id}; follow it with: pod-worker pods logs -f {pod_id}")
    return ExitCode.OK
