"""A PID namespace for a program that kills every process it can see.

AI-Scientist-v2 ends with SIGTERM and SIGKILL to every visible process whose command line holds "python".
In its own PID namespace, with its own /proc, it sees only its own processes.
"""

from __future__ import annotations

import subprocess

from pod_worker.core.failure import FailureCode, RunError

PROBE_SECONDS = 20
_NAMESPACE = ("--pid", "--fork", "--mount-proc", "--kill-child")
CANDIDATES = (("unshare", *_NAMESPACE), ("unshare", "--user", "--map-root-user", *_NAMESPACE))
# The shell of the probe is process 1 of its namespace, and /proc shows the same number.
_PROBE = ("sh", "-c", 'read -r pid rest < /proc/self/stat && test "$$" = 1 && test "$pid" = 1')

# In the foreground: a shell without job control starts background programs with SIGINT ignored, and the original
# ends programs that take too long with SIGINT.
_FIRST_PROCESS = '"$@"; exit $?'


def isolation_prefix(candidates: tuple[tuple[str, ...], ...] = CANDIDATES) -> tuple[str, ...]:
    """The words to put before a command; refuses where no namespace works."""
    for prefix in candidates:
        if _works(prefix):
            return prefix
    raise RunError(
        FailureCode.ENVIRONMENT,
        "this machine allows no PID namespace, and AI-Scientist-v2 kills every python process it can see; "
        "run the worker as root with CAP_SYS_ADMIN, or allow user namespaces (kernel.unprivileged_userns_clone=1)",
    )


def isolated(prefix: tuple[str, ...], command: list[str]) -> list[str]:
    """The command below a process 1 that collects orphans and ends with it.

    The kernel kills all that is left in the namespace when process 1 ends.
    """
    return [*prefix, "sh", "-c", _FIRST_PROCESS, "sh", *command]


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        end = subprocess.run([*prefix, *_PROBE], capture_output=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return end.returncode == 0
