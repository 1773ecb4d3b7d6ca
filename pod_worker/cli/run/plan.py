"""`pod-worker run --dry-run`: what would be uploaded and queued."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pod_worker.cli.composition import control_plane_address
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import print_fields, print_json, print_table, say, size
from pod_worker.core.run import Json
from pod_worker.stack_settings import load_settings
from pod_worker.submission.job_plan import PlannedJob

if TYPE_CHECKING:
    from pod_worker.submission.workdir import PlannedWorkdir

LARGEST = 5


def show_plan(jobs: list[PlannedJob], workdir: PlannedWorkdir | None, *, as_json: bool) -> int:
    tree = workdir.tree if workdir else None
    missing = None
    if tree:
        from pod_worker.submission.workdir import missing_bytes

        missing = missing_bytes(tree, control_plane_address(load_settings()))
    largest = tree.largest[:LARGEST] if tree else []
    if as_json:
        print_json(
            {
                "jobs": [{"labels": job.labels, "params": job.params, "spec": _spec(job)} for job in jobs],
                "workdir": workdir.reference if workdir else None,
                "upload_bytes": missing,
                "largest": [{"path": path, "bytes": count} for path, count in largest],
            }
        )
        return ExitCode.OK
    job = jobs[0]
    needs = {
        name: value
        for name, value in msgspec.structs.asdict(job.spec.resources).items()
        if value not in (None, "")
    }
    command = job.params["run"]
    print_fields(
        [
            ("command", command if isinstance(command, str) else " ".join(command)),
            ("name", job.spec.name or "-"),
            ("runs", str(len(jobs))),
            ("needs", ", ".join(f"{name} {value}" for name, value in needs.items()) or "any worker"),
            ("max duration", str(job.spec.max_duration)),
            ("after", ", ".join(job.spec.after_runs) or "-"),
            ("secrets", ", ".join(sorted(job.spec.secrets)) or "-"),
            ("workdir", _workdir_text(workdir, missing)),
        ]
    )
    if largest:
        print_table(["largest files", "size"], [[path, size(count)] for path, count in largest])
    if len(jobs) > 1:
        names = list(jobs[0].labels)
        print_table(names, [[each.labels[name] for name in names] for each in jobs])
    say("nothing was changed. Without --dry-run this is queued.")
    return ExitCode.OK


def _workdir_text(workdir: PlannedWorkdir | None, missing: int | None) -> str:
    if workdir is None:
        return "none"
    if workdir.tree is None:
        return f"{workdir.reference['git']} at {workdir.reference['commit'][:12]}"
    upload = "unknown, because the control plane does not answer" if missing is None else size(missing)
    return f"{workdir.tree.files} files, {size(workdir.tree.bytes)}; to upload: {upload}"


def _spec(job: PlannedJob) -> dict[str, Json]:
    """Without secrets: a value may stand in the file."""
    fields: dict[str, Json] = msgspec.to_builtins(job.spec)
    fields["secrets"] = dict.fromkeys(job.spec.secrets)
    return fields
