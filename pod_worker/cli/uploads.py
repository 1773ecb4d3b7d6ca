"""Uploads of artifacts by hand, to a run that no worker holds."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pod_worker.artifacts.ledger import UploadLedger
from pod_worker.artifacts.publisher import LeaseLostError, Publisher, RetryBudget
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say
from pod_worker.config import Settings
from pod_worker.core.credentials.secret import revealed
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.lease import UnleasedRun
from pod_worker.core.payload import Payload, RunLog
from pod_worker.core.stage import Artifact, ArtifactKind

RETRY_SECONDS = 60.0


def upload_artifact(
    settings: Settings,
    run: UnleasedRun,
    file: Path,
    kind: ArtifactKind,
    name: str,
    on_sent: Callable[[int], None],
) -> Artifact:
    """Store one file as an artifact of the run. Raises CommandError."""
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(
            settings.control_plane_url,
            revealed(settings.control_plane_token),
            run,
            UploadLedger(Path(folder) / "ledger"),
            _Messages(),
            _NeverStop(),
            random.Random(),
            RetryBudget(total_seconds=RETRY_SECONDS),
            on_sent,
        )
        try:
            return publisher.publish(file.resolve(), kind, name)
        except LeaseLostError:
            raise CommandError(
                f"Run {run.run_id} is held by a worker, which alone writes its artifacts. "
                f"`pod-worker wait {run.run_id}` waits for its end; then upload again."
            ) from None
        except RunError as error:
            _refuse(error)
        finally:
            publisher.close()


def _refuse(error: RunError) -> NoReturn:
    code = ExitCode.USAGE if error.code is FailureCode.USER_ERROR else ExitCode.TEMPORARY
    raise CommandError(f"The file was not stored: {error.message}", code) from None


class _Messages:
    """`core.stage.EventEmitter` for a command: a person reads the warnings."""

    def emit(self, payload: Payload) -> str:
        if isinstance(payload, RunLog):
            say(payload.message)
        return ""


class _NeverStop:
    """`core.stop_signal.StopSignal` for a command, which Ctrl-C ends."""

    def check(self) -> None:
        return

    def is_set(self) -> bool:
        return False
