"""Where attempts run, and what their processes are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.credentials import attempt_token
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.lease import Fence
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.run import Run
from pod_worker.pipelines import PIPELINES
from pod_worker.worker.identity import WorkerIdentity
from pod_worker.worker.isolation.child_user import ChildUser
from pod_worker.worker.protocol import AttemptSpec
from pod_worker.worker.secrets_client import fetch_secrets, secret_names
from pod_worker.worker.work_folders import WorkFolders


@dataclass(frozen=True, slots=True)
class AttemptEnvironment:
    spool_dir: Path
    spool_max_bytes: int
    work_folders: WorkFolders
    control_plane_url: str
    control_plane_token: str | None
    variables: Mapping[str, str]  # of the child's process environment
    child_user: ChildUser | None = None
    redactor: Redactor = field(default_factory=Redactor)  # of every secret that a run may print
    model_access: ModelAccess | None = None
    sandbox_floor: str = "default"

    def job_secrets(self, run: Run, fence: Fence, seconds: float) -> dict[str, str]:
        """The secrets that the run names; asked for at most `seconds`.

        Raises RunError.
        """
        names = secret_names(run)
        if not names:
            return {}
        return fetch_secrets(self.control_plane_url, self.control_plane_token, fence, names, seconds)

    def spec(
        self, run: Run, fence: Fence, identity: WorkerIdentity, work_dir: Path, job_secrets: dict[str, str]
    ) -> AttemptSpec:
        pipeline = PIPELINES.get(run.pipeline)
        return AttemptSpec(
            run=run,
            fence=fence,
            pod_id=identity.pod_id,
            worker_id=identity.worker_id,
            spool_dir=str(self.spool_dir),
            spool_max_bytes=self.spool_max_bytes,
            work_dir=str(work_dir),
            control_plane_url=self.control_plane_url,
            attempt_token=self._attempt_token(fence),
            model_access=self.model_access if pipeline and pipeline.asks_models else None,
            sandbox_floor=self.sandbox_floor,
            job_secrets=job_secrets,
        )

    def _attempt_token(self, fence: Fence) -> str | None:
        """What the run's process may show to the control plane.

        Never the control plane's own token.
        """
        secret = self.control_plane_token
        return attempt_token.mint(secret, fence.run_id, fence.attempt) if secret else None


def needs_sandbox(run: Run) -> bool:
    """Whether the guard of this run's child starts sandbox servers for it."""
    pipeline = PIPELINES.get(run.pipeline)
    return bool(pipeline and pipeline.needs_sandbox(run.params))
