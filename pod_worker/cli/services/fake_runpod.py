"""`pod-worker fake-runpod`: the RunPod API on this machine.

Its pods are free and can run real workers.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say

if TYPE_CHECKING:
    from pod_worker.fake_runpod.server import RunnerFactory

# Passed to the scripted run of `--pods runner` where the pod's own environment lacks them.
SCRIPT_VARIABLES = ("CONTROL_PLANE_URL", "CONTROL_PLANE_TOKEN")


@click.command("fake-runpod")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    envvar="FAKE_RUNPOD_PORT",
    default=9000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--api-key",
    "keys",
    multiple=True,
    help="An accepted API key. [default: FAKE_RUNPOD_API_KEY, else a random one, printed at the start]",
)
@click.option(
    "--speed",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Virtual seconds per second; 0: the clock moves only on request.",
)
@click.option(
    "--pods",
    "pods_mode",
    type=click.Choice(["none", "runner", "process"]),
    default="process",
    show_default=True,
    help="What a pod executes.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder for the pods' files. [default: a temporary one]"
)
@click.option("--state", type=click.Path(path_type=Path), help="File that keeps the account between restarts.")
@click.option("--faults", type=click.Path(exists=True, path_type=Path), help="YAML file of fault rules.")
def fake_runpod(
    host: str,
    port: int,
    keys: tuple[str, ...],
    speed: float,
    pods_mode: str,
    data: Path | None,
    state: Path | None,
    faults: Path | None,
) -> None:
    """Serve the RunPod APIs with a virtual clock and virtual billing.

    The APIs are REST v2, REST v1 and GraphQL.

    Prints the address, and the API key if none is given, as one JSON line. Set them as RUNPOD_API_BASE_URL and
    RUNPOD_API_KEY, then run `pod-worker pods list`.
    `--pods process` starts a pod's command as a local process; `--pods runner` emits the events of a scripted
    research run (RUN_ID in the pod's environment). Faults: POST /_fake/faults, or --faults FILE.
    """
    import msgspec

    from pod_worker.fake_runpod.cloud.account import Account
    from pod_worker.fake_runpod.server import Options, serve

    given = keys or tuple(filter(None, [os.environ.get("FAKE_RUNPOD_API_KEY")]))
    folder = data or Path(tempfile.mkdtemp(prefix="fake_runpod_"))
    options = Options(
        account=Account(api_keys=list(given)),
        speed=speed,
        state=state,
        faults=faults,
        make_runner=_make_runner(pods_mode, folder, speed),
    )
    say(f"pods: {pods_mode}, their files in {folder}")
    try:
        serve(options, address=host, port=port, on_ready=lambda url, key: _announce(url, None if given else key))
    except (ValueError, msgspec.ValidationError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from None


def _announce(url: str, key: str | None) -> None:
    """A key that was given is not printed: it may be used elsewhere too."""
    click.echo(json.dumps({"url": url} | ({} if key is None else {"api_key": key})))


def _make_runner(pods_mode: str, folder: Path, speed: float) -> RunnerFactory | None:
    from pod_worker.fake_runpod.containers.process_runner import ProcessRunner
    from pod_worker.fake_runpod.containers.scripted_runner import ScriptedRunner

    if pods_mode == "none":
        return None
    if pods_mode == "process":
        return lambda host: ProcessRunner(folder, host)
    names = [*SCRIPT_VARIABLES, *(name for name in os.environ if name.startswith("MINIO_"))]
    defaults = {name: os.environ[name] for name in names if name in os.environ}
    return lambda host: ScriptedRunner(folder, host, speed=speed, defaults=defaults)
