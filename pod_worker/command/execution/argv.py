"""The command line of a job: a text runs in a strict shell, a list as it is."""

from __future__ import annotations

SHELL = ("bash", "-euo", "pipefail", "-c")


def argv_of(run: str | list[str]) -> list[str]:
    return [*SHELL, run] if isinstance(run, str) else list(run)
