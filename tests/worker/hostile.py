"""Hostile child programs, and a supervisor at work on one of them.

The programs implement as much of the protocol as a run needs: they read the spec, send `ready`, and then misbehave.
The supervisor, the guard, the queue and MongoDB are the real ones.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo.database import Database

from pod_worker.core.clock import SystemClock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.payload import Payload, RunLog
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_queue import RunQueue, RunRequest
from pod_worker.worker.attempt import supervisor
from pod_worker.worker.attempt.attempt_environment import AttemptEnvironment
from pod_worker.worker.attempt.end_sequence import StopTimeouts
from pod_worker.worker.attempt.supervisor import AttemptResult, Supervisor
from pod_worker.worker.identity import WorkerIdentity
from pod_worker.worker.isolation.attempt_tag import AttemptTag, processes_with_tag
from pod_worker.worker.isolation.child_user import ChildUser
from pod_worker.worker.isolation.guarded_child import ChildCommand
from pod_worker.worker.work_folders import WorkFolders

# A lease that no busy machine outlives: what is shown is that the renewals go on.
LEASE_SECONDS, MARGIN_SECONDS, RENEW_SECONDS = 30.0, 0.5, 0.2
RENEWALS = 4
TIMEOUTS = StopTimeouts(cancel_seconds=0.4, drain_seconds=0.4, kill_seconds=0.4, guard_seconds=1.0)
IDENTITY = WorkerIdentity("pod-0:w", "pod-0", "all", ("synthetic",), ("synthetic",))
WAIT_SECONDS = 100.0  # only a failing test waits so long; a gigabyte through a busy machine takes a minute

PRELUDE = """
import ctypes, json, os, signal, subprocess, sys, threading, time
uplink = os.fdopen(int(os.environ["POD_WORKER_UPLINK_FD"]), "wb", buffering=0)
commands = os.fdopen(int(os.environ["POD_WORKER_COMMAND_FD"]), "rb")
spec = json.loads(commands.readline())
uplink.write(b'{"type":"ready"}\\n')
def succeed():
    uplink.write(b'{"type":"outcome","kind":"succeeded"}\\n')
    os._exit(0)
"""


class Attempt:
    """A supervisor in a thread of its own, and the events it emitted."""

    def __init__(
        self,
        db: Database[dict[str, Any]],
        folder: Path,
        program: str,
        emit: Callable[[Payload], str] = lambda payload: "id",
        control_plane_token: str | None = None,
        user: ChildUser | None = None,
        interpreter: str = sys.executable,
        redactor: Redactor | None = None,
        model_access: ModelAccess | None = None,
        max_duration_seconds: float | None = None,
    ) -> None:
        self.interpreter = interpreter
        self._emit = emit
        self.events: list[Payload] = []
        self.operations = OperatorActions(db)
        self.folder = folder
        self._runs = db["runs"]
        self._queue = RunQueue(db, SystemClock(), lease_seconds=LEASE_SECONDS, margin_seconds=MARGIN_SECONDS)
        self._queue.enqueue(RunRequest("r", "synthetic", {}, max_duration_seconds=max_duration_seconds))
        claim = self._queue.claim(IDENTITY.claiming_worker(WorkerOffer()))
        assert claim is not None
        self._fence = claim.lease.fence
        self._program = PRELUDE + program
        self._result: AttemptResult | None = None
        self.work_root = folder / "work"
        environment = AttemptEnvironment(
            folder / "spool",
            1 << 24,
            WorkFolders(self.work_root, user),
            "http://127.0.0.1:9",
            control_plane_token,
            dict(os.environ),
            user,
            redactor or Redactor(),
            model_access,
        )
        self.supervisor = Supervisor(
            self._queue,
            claim,
            self,
            IDENTITY,
            environment,
            clock=SystemClock(),
            renew_seconds=RENEW_SECONDS,
            timeouts=TIMEOUTS,
        )
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def emit(self, payload: Payload) -> str:
        self.events.append(payload)
        return self._emit(payload)

    def command(
        self, tag: AttemptTag, env: Mapping[str, str], user: ChildUser | None, *, needs_sandbox: bool = False
    ) -> ChildCommand:
        return ChildCommand([self.interpreter, "-c", self._program], env, tag, user)

    def start(self) -> None:
        self._thread.start()

    def _supervise(self) -> None:
        self._result = self.supervisor.supervise()

    # ── observations ───────────────────────────────────────────────────────────────────────────────

    @property
    def document(self) -> dict[str, Any]:
        found = self._runs.find_one({"_id": "r"})
        assert found is not None
        return found

    @property
    def logs(self) -> list[RunLog]:
        return [event for event in list(self.events) if isinstance(event, RunLog)]

    def living(self) -> list[int]:
        """Every process of the attempt, the guard included."""
        return processes_with_tag(AttemptTag("r", self._fence.attempt, self.work_root))

    def wait_until(self, passed: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not passed():
            assert time.monotonic() < end, f"not true after {seconds:g} s; {self.document}"
            threading.Event().wait(0.02)

    def is_renewed(self) -> None:
        """Return when the lease has been renewed several times: the child does not starve the renewal."""
        ends = {self.document["leaseExpiresAt"]}

        def renewed() -> bool:
            ends.add(self.document["leaseExpiresAt"])
            return len(ends) > RENEWALS

        self.wait_until(renewed)
        assert (self.document["status"], self.document["attempt"]) == ("RUNNING", 1)

    def cancel(self) -> float:
        """Cancel the run; seconds until the whole tree is gone and the document is CANCELED."""
        began = time.monotonic()
        self.operations.cancel("r", by="ana")
        self.result()
        assert self.document["status"] == "CANCELED"
        return time.monotonic() - began

    def result(self) -> AttemptResult:
        self._thread.join(WAIT_SECONDS)
        assert self._result is not None, "the supervisor did not come to an end"
        return self._result


@contextmanager
def supervised(
    db: Database[dict[str, Any]],
    folder: Path,
    program: str,
    emit: Callable[[Payload], str] = lambda payload: "id",
    **more: Any,
) -> Iterator[Attempt]:
    """An attempt at `program`, running; nothing of it is left afterwards, or the test fails."""
    attempt = Attempt(db, folder, program, emit, **more)
    original = supervisor.__dict__["child_command"]
    supervisor.__dict__["child_command"] = attempt.command
    try:
        attempt.start()
        attempt.wait_until(lambda: attempt.document["status"] != "SCHEDULED")
        yield attempt
        attempt.result()
        assert attempt.living() == []
    finally:
        supervisor.__dict__["child_command"] = original
        for pid in attempt.living():
            os.kill(pid, 9)
