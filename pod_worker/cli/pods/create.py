"""`pod-worker pods create`: plan, question, launch, worker.

No money is spent before the plan is confirmed. Environment values are never shown.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode, exit_code_for
from pod_worker.cli.options import Number, confirm, json_option, yes_option
from pod_worker.cli.output import is_terminal, print_json, print_table, say
from pod_worker.cli.pods.code_archive import code_archive
from pod_worker.cli.pods.environment import pod_environment
from pod_worker.cli.pods.worker_start import start_worker
from pod_worker.core.run import Json
from pod_worker.pipelines import MODES

if TYPE_CHECKING:
    from pod_worker.cli.pods.session import PodAccount
    from pod_worker.pods.launch.launcher import Launched, LaunchFailed, LaunchRequest
    from pod_worker.pods.runpod_settings import RunpodSettings


LEAST_PRICE, MOST_PRICE = 0.001, 1000.0


class NonEmpty(click.ParamType[str]):
    """Text with at least one visible character."""

    name = "text"

    def convert(self, value: Json, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            self.fail("it is empty.", param, ctx)
        return str(value)


@click.command()
@click.argument("name", default="pod-worker", type=NonEmpty())
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    type=NonEmpty(),
    help="Name or id; repeat it for fallbacks. [default: RUNPOD_GPU_TYPE]",
)
@click.option("--gpu-count", type=click.IntRange(1), help="GPUs per pod.")
@click.option("--cloud", type=click.Choice(["SECURE", "COMMUNITY", "ALL"]), help="[default: SECURE]")
@click.option("--data-center", "centers", multiple=True, type=NonEmpty(), help="Preferred places, best first.")
@click.option(
    "--volume", type=NonEmpty(), help="Network volume by name; fixes the place. [default: RUNPOD_STORAGE_NAME]"
)
@click.option("--image", type=NonEmpty(), help="[default: RUNPOD_WORKER_IMAGE]")
@click.option("--disk-gb", type=click.IntRange(1), help="Container disk.")
@click.option(
    "--env",
    "-e",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="One more variable for the pod. NAME alone takes its value from here; secrets need that.",
)
@click.option(
    "--env-file",
    "env_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="More variables from a file of NAME=VALUE lines.",
)
@click.option(
    "--command",
    metavar="WORDS",
    type=NonEmpty(),
    help="Start this in the container instead of the image's own command; no worker is set up.",
)
@click.option(
    "--max-price",
    type=Number(LEAST_PRICE, MOST_PRICE),
    metavar="USD",
    help="Never create a pod that costs more per hour.",
)
@click.option(
    "--mode", type=click.Choice(list(MODES)), help="What the worker executes. [default: WORKER_MODE or all]"
)
@click.option(
    "--up/--no-up",
    "is_worker_wanted",
    default=None,
    help="Install pod_worker over SSH and start the worker (default), or create the pod only.",
)
@click.option("--keep", is_flag=True, help="Keep the pod if its worker does not start, for a look at it.")
@click.option("--dry-run", is_flag=True, help="Show the plan and spend nothing.")
@yes_option
@json_option
def create(
    name: str,
    gpus: tuple[str, ...],
    gpu_count: int | None,
    cloud: str | None,
    centers: tuple[str, ...],
    volume: str | None,
    image: str | None,
    disk_gb: int | None,
    variables: tuple[str, ...],
    env_files: tuple[Path, ...],
    command: str | None,
    max_price: float | None,
    mode: str | None,
    is_worker_wanted: bool | None,
    keep: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Create one pod and start a worker on it; prints the pod's id.

    NAME begins the pod's name. The same NAME again gives the same pod while it exists. If the worker does not
    start, the pod is terminated.
    """
    from pod_worker.cli.pods.session import open_account

    is_worker_wanted = command is None if is_worker_wanted is None else is_worker_wanted
    if mode and not is_worker_wanted and command is None:
        raise CommandError("--mode has no effect with --no-up: no worker is started", ExitCode.USAGE)
    with open_account() as account:
        given: dict[str, Json] = {
            "gpu_types": gpus or None,
            "gpu_count": gpu_count,
            "clouds": _clouds(cloud),
            "data_centers": centers or None,
            "storage_name": volume,
            "worker_image": image,
            "container_disk_gb": disk_gb,
            "price_ceiling": max_price,
            "worker_mode": mode,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        account.settings = _with_code(replace(account.settings, **changes))
        if account.settings.worker_mode not in MODES:
            raise CommandError(
                f"WORKER_MODE={account.settings.worker_mode!r} is not one of {', '.join(MODES)}", ExitCode.USAGE
            )
        plan = _make_plan(account, name, pod_environment(variables, env_files), command, is_worker_wanted)
        _show_plan(account.settings, plan, as_json and dry_run)
        _check_plan(plan)
        if dry_run:
            return ExitCode.OK
        confirm("Create this pod? It is billed until it is terminated.", yes)
        launched = _launch(account, plan.request)
        pod = launched.pod
        if as_json:
            print_json({"id": pod.id, "name": pod.name, "gpu": pod.gpu_id, "usd_per_hour": pod.cost_per_hour})
        else:
            click.echo(pod.id)
        say(f"created: {pod.name}; terminate it with: pod-worker pods terminate {pod.id}")
        if is_worker_wanted:
            return start_worker(account, name, launched, keep=keep)
        if command is None:
            say(f"WARNING: no worker runs on {pod.id}. The pod idles and is billed until you terminate it.")
        return ExitCode.OK


def _with_code(settings: RunpodSettings) -> RunpodSettings:
    """The default image holds no pod_worker.

    Other images are expected to, unless a git URL is set.
    """
    from pod_worker.pods.runpod_settings import DEFAULT_IMAGE

    if settings.code_url or settings.worker_image != DEFAULT_IMAGE:
        return settings
    return replace(settings, code_archive=code_archive())


@dataclass(frozen=True, slots=True)
class Plan:
    request: LaunchRequest
    is_worker_wanted: bool
    problems: tuple[str, ...]


def _make_plan(
    account: PodAccount, name: str, env: dict[str, str], command: str | None, is_worker_wanted: bool
) -> Plan:
    from pod_worker.pods.launch_requests import worker_launch_request
    from pod_worker.pods.preconditions import address_problems, launch_problems

    settings = account.settings
    request = worker_launch_request(settings, account.provider, name, {"WORKER_MODE": settings.worker_mode, **env})
    problems: tuple[str, ...] = ()
    if command is not None:
        request = replace(request, spec=replace(request.spec, start_command=tuple(shlex.split(command))))
        # A command may need no queue, but an address that leads nowhere is an error in any case.
        problems = tuple(each for each in address_problems(settings, request.spec.env) if "unreachable" in each)
    if is_worker_wanted:
        problems = launch_problems(settings, request)
    return Plan(request, is_worker_wanted, problems)


def _check_plan(plan: Plan) -> None:
    """Raises CommandError while nothing is spent yet."""
    if plan.problems:
        causes = "".join(f"\n  - {problem}" for problem in plan.problems)
        hint = "\nWith --no-up the pod is created without a worker." if plan.is_worker_wanted else ""
        raise CommandError(f"no pod was created, because its worker would not run:{causes}{hint}", ExitCode.USAGE)
    if not plan.request.candidates:
        raise CommandError(
            "no GPU fits: none is offered there, or all cost more than --max-price", ExitCode.BUDGET
        )


def _launch(account: PodAccount, request: LaunchRequest) -> Launched:
    from pod_worker.pods.launch.launcher import LaunchFailed

    try:
        result = account.launcher().launch(request)
    except BaseException:
        say("WARNING: a pod may have been created and may be billed. Check: pod-worker pods list, pods sweep")
        raise
    if isinstance(result, LaunchFailed):
        raise CommandError(_describe_failure(result), _exit_of(result))
    return result


def _clouds(word: str | None) -> tuple[Json, ...] | None:
    from pod_worker.pods.pod import Cloud

    if word is None:
        return None
    return tuple(Cloud) if word == "ALL" else (Cloud(word),)


def _show_plan(settings: RunpodSettings, plan: Plan, as_json: bool) -> None:
    request, spec = plan.request, plan.request.spec
    if as_json:
        print_json(_plan_json(settings, plan))
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
    say(f"  worker: {_worker_text(settings, plan)}")


def _worker_text(settings: RunpodSettings, plan: Plan) -> str:
    if plan.is_worker_wanted:
        return f"mode {settings.worker_mode}, installed over SSH, code from {_code_source(settings)}"
    if plan.request.spec.start_command:
        return f"only if the command starts one (WORKER_MODE={settings.worker_mode})"
    return "none: the pod idles and is billed (--no-up)"


def _code_source(settings: RunpodSettings) -> str:
    from pod_worker.pods.launch_requests import bootstrap_of

    bootstrap = bootstrap_of(settings)
    if bootstrap.code_archive is not None:
        return f"this checkout ({len(bootstrap.code_archive) >> 10} KiB)"
    return bootstrap.code_url or f"the image ({bootstrap.code_dir})"


def _plan_json(settings: RunpodSettings, plan: Plan) -> dict[str, Json]:
    request, spec = plan.request, plan.request.spec
    return {
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
        "mode": settings.worker_mode if plan.is_worker_wanted or spec.start_command else None,
        "worker": plan.is_worker_wanted,
        "problems": list(plan.problems),
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
