"""`pod-worker run` and `pod-worker wait`: submit a command, follow it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pod_worker.cli.completion import complete_queues, label_option
from pod_worker.cli.composition import open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import Int64, json_option, parse_pair
from pod_worker.cli.output import print_json, print_json_line, print_line, say, size
from pod_worker.cli.progress import ByteProgress
from pod_worker.cli.run.following import follow_job, wait_for_jobs
from pod_worker.cli.run.plan import show_plan
from pod_worker.cli.run.words import COMMAND_KEY, RunCommand
from pod_worker.command.job.document import read_job_file, set_fields, value_of
from pod_worker.command.job.spec import JobSpec, job_schema, read_job
from pod_worker.command.job.sweep import combinations, sweep_values, with_values
from pod_worker.core.duration import DurationError, duration_seconds
from pod_worker.core.failure import RunError
from pod_worker.core.run import InvalidRunError, Json
from pod_worker.submission.job_plan import PlannedJob, plan_job, secret_values

if TYPE_CHECKING:
    from pod_worker.submission.workdir import PlannedWorkdir

CURRENT_FOLDER = "."
# Options that are fields of the same name.
_PLAIN = (
    "name", "workdir", "setup", "python", "max_duration", "max_queue_time", "checkpoint_dir", "priority", "queue",
)  # fmt: skip


@click.command(cls=RunCommand)
@click.argument("job_file", required=False, metavar="[JOB.yaml]")
@click.option("--name", help="A name to find the run by.")
@label_option("A label; repeat it for several.")
@click.option("--workdir", help="Folder to upload, or URL@COMMIT. [default for a command: the current folder]")
@click.option("--no-workdir", is_flag=True, help="Upload nothing.")
@click.option("--max-files", type=Int64(1), default=20_000, show_default=True, help="Refuse more files than this.")
@click.option("--max-mb", type=Int64(1), default=1_000, show_default=True, help="Refuse more MB than this.")
@click.option("--setup", help="Shell text that prepares the environment; its result is cached on the pod.")
@click.option("--python", help='"venv", a version such as 3.11, "uv" or "uv:3.12". [default: the worker\'s]')
@click.option("--env", "envs", multiple=True, metavar="NAME=VALUE", help="An environment variable.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME", help="A variable of yours that only the command gets."
)
@click.option("--gpu", metavar="GPU", help='"H100:2", "24GB..48GB:1", "RTX 4090" or a count.')
@click.option("--max-duration", metavar="TIME", help="Of one attempt, e.g. 90m; 0 for none. [default: 24h]")
@click.option("--max-queue-time", metavar="TIME", help="Fail if no worker starts it within this time.")
@click.option("--output", "outputs", multiple=True, metavar="GLOB", help="Files of the workdir to upload.")
@click.option("--checkpoint-dir", metavar="FOLDER", help="Folder of the workdir with checkpoints.")
@click.option("--priority", type=Int64(), metavar="N", help="Higher numbers start first.")
@click.option("--queue", shell_complete=complete_queues, help="Another queue than `command`.")
@click.option("--after", multiple=True, metavar="RUN", help="Start when this run (id or name) has ended well.")
@click.option("--retry", type=Int64(0, 1000), metavar="N", help="Repetitions after interruptions. [default: 4]")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Set a field: envs.LR=1e-4.")
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="NAME=A,B", help="One run per value: lr=1e-4,3e-4 seed=0..4"
)
@click.option("--detach", "-d", is_flag=True, help="Print the id and return at once.")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded and queued; change nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a job file.")
@json_option
def run(job_file: str | None, as_json: bool, **options: Any) -> int:
    """Run a command of your own on a pod.

    \b
    pod-worker run -- python train.py --lr 1e-4
    pod-worker run job.yaml --set envs.LR=1e-4

    The current folder (without what .gitignore and .podignore name) is uploaded and is the working directory. The
    log is shown until the run ends; the exit code is the command's. Ctrl-C ends the watching, not the run.
    docs/jobs.md describes every field.
    """
    if options["schema"]:
        print_json(job_schema())
        return ExitCode.OK
    command = click.get_current_context().meta.get(COMMAND_KEY)
    file = _job_file(job_file, command)
    fields = given_fields(file, command, options)
    with _usage_errors():
        sweep = sweep_values(options["sweeps"])
        combined = [(read_job(with_values(fields, values)), values) for values in combinations(sweep)]
    first = combined[0][0]
    workdir = _plan_workdir(first, file, options)
    with _usage_errors():
        jobs = [plan_job(spec, workdir, _sweep_labels(values)) for spec, values in combined]
    secrets = secret_values(first)
    if options["dry_run"]:
        return show_plan(jobs, workdir, as_json=as_json)
    return _submit(jobs, workdir, secrets, is_detached=options["detach"], as_json=as_json)


def _submit(
    jobs: list[PlannedJob],
    workdir: PlannedWorkdir | None,
    secrets: dict[str, str],
    *,
    is_detached: bool,
    as_json: bool,
) -> int:
    from pod_worker.store.views.read_models import ReadModels
    from pod_worker.submission.submit import submit_jobs

    store = open_store(with_indexes=True)
    with _usage_errors(), ByteProgress("upload") as progress:
        ids = submit_jobs(
            jobs,
            workdir,
            secrets,
            models=ReadModels(store.database),
            queue=store.queue(),
            address=store.control_plane(),
            note=say,
            on_upload=lambda sent: progress.update(sent.sent, sent.total),
        )
    if workdir and (tree := workdir.tree):
        say(f"workdir: {tree.files} files, {size(tree.bytes)} from {tree.root}")
    if as_json:
        shown = {"id": ids[0] if len(ids) == 1 else None, "ids": ids, "status": "QUEUED"}
        (print_json if is_detached else print_json_line)(shown)
    else:
        for each in ids:
            print_line(each)
    if is_detached:
        say(f"queued. Follow it: pod-worker runs logs -f {ids[0]}   wait for it: pod-worker wait {ids[0]}")
        return ExitCode.OK
    return follow_job(store, ids, as_json=as_json)


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN…")
@click.option("--timeout", metavar="TIME", help="Give up after this time, with exit code 75.")
@json_option
def wait(run_ids: tuple[str, ...], timeout: str | None, as_json: bool) -> int:
    """Wait until runs have ended.

    The exit code is that of the command; of several runs, the first that is not 0. Outages of MongoDB are waited
    out.
    """
    from pod_worker.cli.runs.lookup import resolve_ids
    from pod_worker.store.views.read_models import ReadModels

    try:
        seconds = duration_seconds(timeout) if timeout is not None else None
    except DurationError as error:
        raise CommandError(f"--timeout {error}", ExitCode.USAGE) from None
    store = open_store()
    ids = resolve_ids(ReadModels(store.database), run_ids)
    return wait_for_jobs(store, ids, seconds, as_json=as_json)


# ── the fields of the job ───────────────────────────────────────────────────────────────────────────────────


def _job_file(word: str | None, command: tuple[str, ...] | None) -> Path | None:
    if word is None:
        if not command:
            raise CommandError("name a job file, or a command: pod-worker run -- python train.py", ExitCode.USAGE)
        return None
    if not word.endswith((".yaml", ".yml")) and not Path(word).is_file():
        raise CommandError(
            f"{word!r} is no job file. For a command write -- before it: pod-worker run -- {word} …",
            ExitCode.USAGE,
        )
    return Path(word)


def given_fields(file: Path | None, command: tuple[str, ...] | None, options: dict[str, Any]) -> dict[str, Json]:
    """The fields of the file, then the options, then --set. Raises CommandError."""
    with _usage_errors():
        fields: dict[str, Json] = read_job_file(file) if file else {"workdir": CURRENT_FOLDER}
        if command:
            fields.pop("commands", None)
            fields["run"] = list(command)
        fields |= {name: options[name] for name in _PLAIN if options[name] is not None}
        if options["no_workdir"]:
            fields["workdir"] = None
        changes: list[tuple[str, Json]] = [
            (f"{group}.{name}", value)
            for group in ("envs", "labels")
            for name, value in map(parse_pair, options[group])
        ]
        changes += [(f"secrets.{_secret(name)}", None) for name in options["secrets"]]
        changes += [("resources.gpu", options["gpu"])] if options["gpu"] is not None else []
        changes += [("retry.max", options["retry"])] if options["retry"] is not None else []
        changes += [(path, value_of(text)) for path, text in map(parse_pair, options["changes"])]
        fields = set_fields(fields, changes)
        if options["outputs"]:
            fields["outputs"] = [*(fields.get("outputs") or []), *options["outputs"]]
        if options["after"]:
            fields["after"] = [*_after(fields.get("after")), *options["after"]]
    return fields


def _after(given: Json) -> list[Json]:
    if given is None:
        return []
    if isinstance(given, list):
        return given
    raise CommandError(
        "--after cannot be added to `after` with on_failure: put the run into the file", ExitCode.USAGE
    )


def _secret(text: str) -> str:
    if "=" in text:
        raise CommandError(
            "--secret takes a name alone, because a value would be seen in the list of processes: "
            f"export {text.partition('=')[0]}=… and write --secret {text.partition('=')[0]}",
            ExitCode.USAGE,
        )
    return text


def _plan_workdir(spec: JobSpec, file: Path | None, options: dict[str, Any]) -> PlannedWorkdir | None:
    if spec.workdir is None:
        return None
    from pod_worker.content.tree import TreeLimits
    from pod_worker.submission.workdir import plan_workdir

    # A relative folder of a job file is seen from the file.
    base = file.resolve().parent if file and options["workdir"] is None else Path.cwd()
    return plan_workdir(spec.workdir, base, TreeLimits(options["max_mb"] * 1_000_000, options["max_files"]))


def _sweep_labels(values: dict[str, str]) -> dict[str, str]:
    return {name.rpartition(".")[2]: value for name, value in values.items()}


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turns an error of the input into an end of the command with exit code 2."""
    try:
        yield
    except (RunError, InvalidRunError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
