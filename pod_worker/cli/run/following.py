"""Follows a job to its end: its log, and its exit code as ours."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.exit_codes import ExitCode
from pod_worker.cli.output import print_json_line, print_line, say
from pod_worker.cli.runs.logs import follow_log
from pod_worker.cli.runs.watch import fetch_runs, watch_runs
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.run_end import end_of, has_ended

POLL_SECONDS = 0.5


def follow_job(store: StoreSession, run_ids: Sequence[str], *, as_json: bool) -> int:
    """Prints the log of one run, or the changes of several, until they end."""
    models = ReadModels(store.database)
    if len(run_ids) > 1:
        code = watch_runs(store, run_ids, as_json=as_json)
        return code if code == ExitCode.INTERRUPTED else exit_code_of(fetch_runs(models, run_ids))
    [run_id] = run_ids
    try:
        follow_log(store.database, run_id, as_json=as_json)
    except KeyboardInterrupt:
        say(
            f"\nstopped watching; the run goes on. Follow it again: pod-worker runs logs -f {run_id}   "
            f"stop it: pod-worker runs cancel {run_id}"
        )
        return ExitCode.INTERRUPTED
    [run] = fetch_runs(models, run_ids)
    code = exit_code_of([run])
    if not as_json:
        say(_end_line(run))
    return code


def wait_for_jobs(store: StoreSession, run_ids: Sequence[str], seconds: float | None, *, as_json: bool) -> int:
    """One line per run when it ends. 75 when the time is over."""
    models = ReadModels(store.database)
    end = None if seconds is None else time.monotonic() + seconds
    ended: dict[str, Document] = {}
    try:
        while True:
            for run in fetch_runs(models, [each for each in run_ids if each not in ended]):
                if has_ended(run):
                    ended[str(run["_id"])] = run
                    _print_end(run, as_json)
            if len(ended) == len(run_ids):
                break
            if end is not None and time.monotonic() > end:
                say(f"{len(run_ids) - len(ended)} of {len(run_ids)} runs have not ended in time; they go on")
                return ExitCode.TEMPORARY
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        say(f"\nstopped waiting; the runs go on. Wait again: pod-worker wait {' '.join(run_ids[:5])}")
        return ExitCode.INTERRUPTED
    return exit_code_of([ended[run_id] for run_id in run_ids])


def exit_code_of(runs: Sequence[Document]) -> int:
    """The first code that is not 0: the program's where it has one, else 1."""
    return next((code for run in runs if (code := end_of(run).exit_code)), ExitCode.OK)


def _print_end(run: Document, as_json: bool) -> None:
    if as_json:
        print_json_line(
            {
                "id": run["_id"],
                "name": run.get("name"),
                "status": run.get("status"),
                "exit_code": end_of(run).exit_code,
                "error": run.get("errorMessage"),
            }
        )
    else:
        print_line(f"{run['_id']} {_end_line(run)}")


def _end_line(run: Document) -> str:
    end = end_of(run)
    if end.is_ok:
        return f"{end.status}. Its files: pod-worker artifacts list {run['_id']}"
    return f"{end.status}: {end.message}" if end.message else end.status
