"""Seals the secrets of a job for the control plane."""

from __future__ import annotations

from collections.abc import Mapping

from pod_worker.cli.exit_codes import CommandError, ExitCode


def sealed_values(secrets: Mapping[str, str]) -> dict[str, str]:
    """Raises CommandError: this version cannot pass secrets to a job."""
    raise CommandError(
        f"this version cannot pass secrets to a job yet ({', '.join(sorted(secrets))}). "
        "Put them into a file on the pod, or into the environment of the worker with POD_WORKER_CHILD_ENV.",
        ExitCode.USAGE,
    )
