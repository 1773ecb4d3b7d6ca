"""The command of `pod-worker demo`.

Its worker is killed once; another one, with folders of its own, continues from the checkpoint.
"""

from __future__ import annotations

import threading

from pod_worker.cli.composition import StoreSession
from pod_worker.cli.output import say
from pod_worker.cli.stack.up import LocalStack
from pod_worker.command.params import PIPELINE, complete
from pod_worker.local.process import ChildProcess
from pod_worker.store.mongo import Document
from pod_worker.store.queue.run_queue import RunRequest
from pod_worker.store.views.read_models import ReadModels

QUEUE = "demo-command"  # the other worker of the demo leaves it alone
STEPS = 24
SCRIPT = f"""
n=$(cat "$CHECKPOINT_DIR/n" 2> /dev/null || echo 0)
echo "attempt $POD_WORKER_ATTEMPT begins after step $n"
while [ "$n" -lt {STEPS} ]; do
  n=$((n + 1)); sleep 0.3
  echo "$n" > "$CHECKPOINT_DIR/n.new"; mv "$CHECKPOINT_DIR/n.new" "$CHECKPOINT_DIR/n"
done
echo "$n steps" > "$OUTPUT_DIR/result.txt"
"""
# A dead worker is noticed in seconds instead of a minute.
SHORT_LEASE = {
    "POD_WORKER_LEASE_SECONDS": "6",
    "POD_WORKER_LEASE_MARGIN_SECONDS": "1.5",
    "POD_WORKER_RENEW_SECONDS": "1",
    "POD_WORKER_RESCUE_SECONDS": "1",
    "POD_WORKER_POLL_SECONDS": "1",
}
SNAPSHOT_SECONDS = 60.0


class CommandDemo:
    """Queue the command; kill its worker after a checkpoint; start another one."""

    def __init__(self, store: StoreSession, local: LocalStack) -> None:
        from ulid import ULID

        self._local = local
        self._models = ReadModels(store.database)
        self.run_id = str(ULID())
        params = complete({"run": SCRIPT, "checkpoint_every": 1})
        store.queue().enqueue(RunRequest(self.run_id, PIPELINE, params, QUEUE, name=QUEUE))

    def kill_and_replace_worker(self, stop: threading.Event) -> None:
        """Returns when the second worker is up."""
        first = self._start("pod-a")
        for _ in range(int(SNAPSHOT_SECONDS / 0.2)):
            if self._has_snapshot() or stop.wait(0.2):
                break
        first.kill()
        self._local.stack.remove("pod-a")
        say("killed the worker of the command after its first checkpoint; another pod continues …")
        self._start("pod-b")

    def _start(self, pod: str) -> ChildProcess:
        folder = self._local.data / pod / "work"
        return self._local.start_worker(
            pod,
            "--queue",
            QUEUE,
            RUNPOD_POD_ID=pod,
            POD_WORKER_WORK_DIR=str(folder),
            **SHORT_LEASE,
        )

    def _has_snapshot(self) -> bool:
        state = ((self.document().get("checkpoints") or {}).get(PIPELINE) or {}).get("state") or {}
        return bool(state.get("snapshots"))

    def document(self) -> Document:
        return self._models.run(self.run_id) or {}


def resumed_after(lines: list[str]) -> int | None:
    """The step from which the second attempt continued; None without one."""
    for line in lines:
        if line.startswith("attempt 2 begins after step "):
            return int(line.rsplit(" ", 1)[1])
    return None
