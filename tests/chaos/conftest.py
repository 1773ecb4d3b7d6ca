"""Histories for the checker's tests, see `stories`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.stories import Story


@pytest.fixture
def story() -> Callable[[], Story]:
    return Story


@pytest.fixture
def good() -> Story:
    """A run whose first worker dies after a stage and whose second finishes it."""
    return (
        Story()
        .queued()
        .claimed(1, 1)
        .started(1.2)
        .saved(2, "Stage_1", 1)
        .renewed(2.5)
        .rescued(9)
        .claimed(10, 2, "pod-1:w")
        .started(10.2)
        .saved(11, "Stage_2", 2)
        .settled(12, 2)
    )
