"""Starts the sandbox server; standard library only, for the guard.

Where the guard is root, the server gets a user of its own. The child of the guard cannot change its user, so it
asks here: `start MODULE…` on a SOCK_SEQPACKET pair. The answer carries the client end of a new server's control
socket. The modules are imported by the server, under the server's user.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from pod_worker.process.tree import die_with_parent, kill_tree

SERVER_FD_VARIABLE = "POD_WORKER_SANDBOX_FD"
START_REQUEST = b"start "
REQUEST_BYTES = 4096
SandboxIds = tuple[int, int, tuple[int, ...]]  # user, group, further groups
# No secret has such a name; the tag finds processes whose guard was killed.
_PASSED = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_HOME", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POD_WORKER_ATTEMPT_TAG",
    "POD_WORKER_WORK_ROOT",
)  # fmt: skip


def server_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of a server: an allow-list.

    Strings have the same hashes in every program.
    """
    passed = {name: env[name] for name in _PASSED if name in env}
    # Asking NVML does not initialize CUDA; the default question would, and no child could use a GPU.
    return {**passed, "PYTHONHASHSEED": "0", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def start_server(
    user: SandboxIds | None,
    env: Mapping[str, str],
    python: str = sys.executable,
    modules: Sequence[str] = (),
    *,
    ends_with_thread: bool = False,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A server and the client end of its control socket. Raises OSError.

    The server ends when the client end is closed; with `ends_with_thread` also when this thread does.
    """
    uid, gid, groups = user or (None, None, None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = theirs.fileno()
    # -P: the working directory is no place to import from.
    argv = [python, "-P", "-m", "pod_worker.sandbox.server", str(fd), str(int(user is not None)), *modules]
    with theirs:
        try:
            process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(fd,),
                start_new_session=True,
                user=uid,
                group=gid,
                extra_groups=groups,
                preexec_fn=die_with_parent(os.getpid()) if ends_with_thread else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            raise OSError(f"{python}: {error}") from None
    return process, ours


class SandboxStarter:
    """The guard's end: one server at a time."""

    def __init__(self, user: SandboxIds | None) -> None:
        self._user = user
        self._socket, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child_fd = child.detach()
        self._server: subprocess.Popen[bytes] | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def answer(self, child: int) -> bool:
        """Start a server for the child; False when no request can come any more."""
        try:
            request = self._socket.recv(REQUEST_BYTES)
            if not request:
                return False
            self._end_server(child)
            modules = request.removeprefix(START_REQUEST).decode(errors="replace").split()
            environment = server_environment(os.environ)
            self._server, client = start_server(self._user, environment, modules=modules, ends_with_thread=True)
            with client:
                socket.send_fds(self._socket, [b"started"], [client.fileno()])
        except OSError as error:
            self._refuse(str(error))
        return True

    def _end_server(self, child: int) -> None:
        if self._server is None:
            return
        self._server.kill()
        self._server = None
        kill_tree(os.getpid(), spared=[child])

    def _refuse(self, cause: str) -> None:
        try:
            self._socket.send(cause.encode()[:4000], socket.MSG_DONTWAIT)
        except OSError:
            pass  # the child is gone
