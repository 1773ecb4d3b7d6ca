"""Start a process from a thread that lasts, so that it can end together with us.

See `process.tree.die_with_parent`. On systems without it the child survives our SIGKILL; then the lock of its
data folder names it at the next start.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future

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
