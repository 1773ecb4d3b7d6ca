"""What a worker says at its start."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import GpuIndices
from pod_worker.cli.services.worker import _gpu_monitor, _identity, _shipper, worker
from pod_worker.config import load
from pod_worker.core import payload
from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.outbox.backlog import Backlog
from pod_worker.outbox.emitter import RunEmitter
from pod_worker.outbox.ids import UlidGenerator
from pod_worker.outbox.spool import Spool
from pod_worker.worker.machine import GpuMonitor, Machine


def test_only_undelivered_events_of_an_earlier_worker_are_worth_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each start named each worker that had ever stopped on this disk."""
    clock = SystemClock()
    spool = Spool.open(tmp_path, "earlier", 16 * 1024 * 1024)
    RunEmitter(spool, "source", "r1", 1, clock, UlidGenerator(clock)).emit(payload.RunStarted(pod_id="p"))
    [folder] = spool.stream_folders()
    spool.close()
    settings = load({"POD_WORKER_SPOOL_DIR": str(tmp_path), "POD_WORKER_SPOOL_MAX_MB": "16"}, None)

    def said() -> str:
        caplog.clear()
        now = Spool.open(tmp_path, "now", 16 * 1024 * 1024)
        for each in _shipper(settings, now, clock, Redactor())._spools:
            each.close()
        return caplog.text

    caplog.set_level(logging.INFO)
    assert "left behind: worker-earlier" in said()
    backlog = Backlog(folder)
    backlog.acknowledge(backlog.next_lines(10, 10_000, with_deferred=True), [])
    backlog.save()
    assert "left behind" not in said()


@pytest.mark.parametrize("text", ["", "a", "0,,1", "-1", "0,0", "0;1"])
def test_a_list_of_gpus_that_cannot_be_read_is_refused(text: str) -> None:
    result = CliRunner().invoke(worker, ["--gpus", text])
    assert result.exit_code == 2
    assert "GPU" in result.output


def test_workers_of_one_pod_have_ids_of_their_own(tmp_path: Path) -> None:
    """Spool, registry and lease of two workers on a pod would be mixed up."""
    machine, new_id = Machine(tmp_path, GpuMonitor(())), UlidGenerator(SystemClock())
    ids = {_identity(load({}, None), "all", ("synthetic",), machine, new_id).worker_id for _ in range(3)}
    assert len(ids) == 3


def test_a_list_of_gpus_is_read() -> None:
    assert GpuIndices().convert("0, 3", None, None) == (0, 3)


def test_a_gpu_that_the_pod_lacks_is_refused_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """The worker would work without a GPU and say nothing."""
    with pytest.raises(CommandError, match=r"--gpus names GPU 99, ") as refused:
        _gpu_monitor((99,), {})
    assert refused.value.exit_code == ExitCode.USAGE
    assert _gpu_monitor(None, {"CUDA_VISIBLE_DEVICES": "99"}).list() == []
    assert "this worker has no GPU: CUDA_VISIBLE_DEVICES names GPU 99, " in caplog.text
