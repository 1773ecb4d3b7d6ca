"""Starting a process so that the kernel ends it together with us (Linux, prctl PR_SET_PDEATHSIG).

Elsewhere the child survives our SIGKILL; then the lock of its data folder names it at the next start.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """For the moment between fork and exec: ask the kernel for SIGKILL at the parent's death (prctl(2))."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork, where locks are safe; PyDLL, because after it the GIL must not change hands.
    prctl = ctypes.PyDLL(None).prctl

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the prctl
            os._exit(1)

    return arm


_Spawn = Callable[[], "subprocess.Popen[bytes]"]
_spawner_lock = threading.Lock()
_spawner_jobs: queue.SimpleQueue[tuple[_Spawn, Future[subprocess.Popen[bytes]]]] | None = None


def spawn_from_long_lived_thread(spawn: _Spawn) -> subprocess.Popen[bytes]:
    """Run `spawn` in a thread that lasts as long as the process.

    PR_SET_PDEATHSIG fires when the *thread* that forked ends, so a child started from a short-lived thread would
    be killed with that thread.
    """
    if threading.current_thread() is threading.main_thread():
        return spawn()
    future: Future[subprocess.Popen[bytes]] = Future()
    _jobs().put((spawn, future))
    return future.result()


def _jobs() -> queue.SimpleQueue[tuple[_Spawn, Future[subprocess.Popen[bytes]]]]:
    global _spawner_jobs
    with _spawner_lock:
        if _spawner_jobs is None:
            _spawner_jobs = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_spawner_jobs,), name="spawner", daemon=True).start()
        return _spawner_jobs


def _serve(jobs: queue.SimpleQueue[tuple[_Spawn, Future[subprocess.Popen[bytes]]]]) -> None:
    while True:
        spawn, future = jobs.get()
        try:
            future.set_result(spawn())
        except OSError as error:
            future.set_exception(error)
