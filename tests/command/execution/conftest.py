"""A stop signal with a clock of its own, and the subreaper that a job's process becomes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pod_worker.process.tree import become_subreaper


@pytest.fixture(autouse=True)
def subreaper_ends() -> Iterator[None]:
    """Executing a command makes its process a subreaper; the process of the tests must not stay one."""
    yield
    become_subreaper(enabled=False)
