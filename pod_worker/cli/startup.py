"""What a program inherits from its shell, made the same everywhere.

Called first by every program.

Covers ignored signals (`nohup`, background jobs of a script) and proxy settings. Changes this process and, through
the environment and exec(2), every process below it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import MutableMapping
from types import FrameType

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")  # httpx refuses "[::1]"
# A pod is stopped with SIGTERM. Where SIGCHLD is ignored, the exit codes of children are lost.
ALWAYS_HEARD = frozenset({signal.SIGTERM, signal.SIGCHLD})
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})  # subprocess resets these for its children


def prepare_process() -> None:
    """Apply both rules to this process. Safe to call twice."""
    bypass_proxy_on_loopback(os.environ)
    if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
        contain_ignored_signals()


def bypass_proxy_on_loopback(env: MutableMapping[str, str]) -> None:
    """Add this machine to `no_proxy`, which requests, urllib, httpx and curl read.

    A proxy has a loopback address of its own, so it cannot reach ours.
    """
    if not any(name.lower().endswith("_proxy") for name in env):
        return
    exempt = [name.strip() for name in (env.get("no_proxy") or env.get("NO_PROXY") or "").split(",")]
    if "*" in exempt:  # urllib knows it only alone
        return
    exempt += [name for name in LOOPBACK_NAMES if name not in exempt]
    env["no_proxy"] = env["NO_PROXY"] = ",".join(filter(None, exempt))


def contain_ignored_signals() -> None:
    """Keep ignored signals ignored, but give our children the defaults.

    exec(2) passes SIG_IGN on, so a run's code, mongod or a worker would be deaf to signals that we send. A handler
    is reset to the default by exec(2).
    """
    for number in signal.valid_signals() - IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number in ALWAYS_HEARD else _stay_ignored)


def _stay_ignored(number: int, frame: FrameType | None) -> None:
    pass
