"""What a drain and a cancel mean for an upload in progress."""

from __future__ import annotations

import pytest

from pod_worker.core.failure import CancelRequested, DrainRequested
from pod_worker.stages.context import StopFlag
from pod_worker.worker.child_io import CancelOnlySignal


def test_a_drain_lets_the_last_checkpoint_leave_the_pod() -> None:
    flag = StopFlag()
    flag.request(DrainRequested)
    CancelOnlySignal(flag).check()
    assert not CancelOnlySignal(flag).is_set()


def test_a_cancel_ends_a_transfer() -> None:
    flag = StopFlag()
    flag.request(CancelRequested)
    assert CancelOnlySignal(flag).is_set()
    with pytest.raises(CancelRequested):
        CancelOnlySignal(flag).check()
