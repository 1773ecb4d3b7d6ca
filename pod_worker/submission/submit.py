"""Submits planned jobs: secrets sealed, workdir uploaded, runs queued together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pod_worker.command.params import PIPELINE
from pod_worker.content.upload_client import ContentUploadError, UploadProgress
from pod_worker.core.duration import duration_seconds
from pod_worker.core.run import AfterFailure
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.store.queue.run_request import RunRequest
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.address import ControlPlaneAddress
from pod_worker.submission.errors import SubmissionOutageError
from pod_worker.submission.job_plan import PlannedJob, requirements_of
from pod_worker.submission.lookup import find_ids
from pod_worker.submission.sealing import sealed_values
from pod_worker.submission.workdir import PlannedWorkdir


def submit_jobs(
    jobs: Sequence[PlannedJob],
    workdir: PlannedWorkdir | None,
    secrets: Mapping[str, str],
    *,
    models: ReadModels,
    queue: RunQueue,
    address: ControlPlaneAddress,
    note: Callable[[str], object] = lambda _text: None,
    on_upload: Callable[[UploadProgress], None] = lambda _progress: None,
) -> list[str]:
    """The ids of the runs. Nothing is queued before all of it can be.

    Raises SubmissionError, InvalidRunError, and errors of the store.
    """
    after = [tuple(find_ids(models, job.spec.after_runs, note)) for job in jobs]
    sealed = sealed_values(secrets, address)
    if workdir and workdir.tree:
        try:
            address.content_client().upload(workdir.tree, on_upload)
        except ContentUploadError as error:
            raise SubmissionOutageError(f"the workdir was not uploaded: {error}") from None
    requests = [_request(job, runs, sealed) for job, runs in zip(jobs, after, strict=True)]
    queue.enqueue_many(requests)
    return [request.id for request in requests]


def _request(job: PlannedJob, after: tuple[str, ...], sealed_secrets: Mapping[str, str]) -> RunRequest:
    from ulid import ULID

    spec = job.spec
    return RunRequest(
        id=str(ULID()),
        pipeline=PIPELINE,
        params=job.params,
        queue=spec.queue,
        priority=spec.priority,
        max_attempts=spec.retry.max + 1,
        requirements=requirements_of(spec),
        labels=job.labels,
        name=spec.name,
        after=after,
        after_failure=AfterFailure(spec.after_failure),
        max_queue_seconds=duration_seconds(spec.max_queue_time) or None,
        max_duration_seconds=duration_seconds(spec.max_duration) or None,
        retry_on=tuple(spec.retry.on),
        sealed_secrets=dict(sealed_secrets),
    )
