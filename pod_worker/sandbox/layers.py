"""The layers of protection, proved by a real program that tries to get out.

A layer counts when every attempt of `canary` against it failed, seen from the program and from outside. Nothing is
assumed from a kernel version, and no layer is dropped without a word: a floor that is not reached is a refusal.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pod_worker.core.execution import ExecutionEnd, ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.sandbox.protocol import ServerDescription

FILES, NETWORK, INSPECTION, SIGNALS = "files", "network", "inspection", "signals"
PROCESSES, LIMITS, UID = "processes", "limits", "uid"
LAYERS = (FILES, NETWORK, INSPECTION, SIGNALS, PROCESSES, LIMITS, UID)
# Signals between processes of one user need Landlock version 6 (Linux 6.12), so they are not part of it.
DEFAULT_FLOOR = (FILES, NETWORK, INSPECTION, PROCESSES, LIMITS)
DEFAULT = "default"
CANARY = Path(__file__).with_name("canary.py")
PROCESS_LIMIT = 12
PROBE_LIMITS = ExecutionLimits(wall_seconds=30, processes=PROCESS_LIMIT, file_bytes=2**20, disk_bytes=2**26)
GONE_SECONDS = 5.0

Execute = Callable[[ExecutionRequest], ExecutionResult]


class Attempt(msgspec.Struct):
    """One attempt of the canary; `is_denied` is its own view."""

    layer: str
    name: str
    is_denied: bool
    detail: str = ""


def read_floor(text: str) -> tuple[str, ...] | None:
    """The layers of POD_WORKER_SANDBOX_FLOOR; None for the default. Raises ValueError."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    if names in ((), (DEFAULT,)):
        return None
    if unknown := [name for name in names if name not in LAYERS]:
        raise ValueError(f"unknown layer {', '.join(unknown)}; write `{DEFAULT}` or some of {', '.join(LAYERS)}")
    return names


def missing_layers(floor: Sequence[str] | None, layers: Sequence[str]) -> list[str]:
    """What the floor asks for and was not proved.

    Without a floor, root also needs `uid`.
    """
    if floor is None:
        floor = (*DEFAULT_FLOOR, UID) if os.geteuid() == 0 else DEFAULT_FLOOR
    return [name for name in floor if name not in layers]


def prove(execute: Execute, server: ServerDescription) -> tuple[str, ...]:
    """The layers that hold on this machine.

    Raises RunError when no program can be started at all.
    """
    with _bait() as bait:
        request = ExecutionRequest(
            folder=bait.folder,
            argv=(CANARY.name,),
            limits=PROBE_LIMITS,
            environment={
                "CANARY_OUTSIDE": str(bait.outside),
                "CANARY_SOCKET": str(bait.socket_path),
                "CANARY_PORT": str(bait.port),
                "CANARY_PIDS": f"{server.pid},{os.getpid()}",
                "CANARY_UID": str(os.geteuid()),
                "CANARY_PROCESSES": str(4 * PROCESS_LIMIT),
            },
        )
        result = execute(request)
        return judge(_attempts(result.output), result, bait.breaches())


def judge(attempts: Sequence[Attempt], result: ExecutionResult, breaches: Sequence[str]) -> tuple[str, ...]:
    """The layers of which every attempt was made and failed.

    `breaches` are layers that were broken as seen from outside.
    """
    failed = {each.layer for each in attempts if not each.is_denied} | set(breaches)
    tried = {each.layer for each in attempts}
    # Without the kernel's limit of processes the keeper kills the program.
    if result.end is ExecutionEnd.SIGNALED and LIMITS in tried:
        failed.discard(LIMITS)
    return tuple(name for name in LAYERS if name in tried and name not in failed)


def _attempts(output: str) -> list[Attempt]:
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            found.append(msgspec.json.decode(line, type=Attempt))
    return found


@dataclass(frozen=True, slots=True)
class _Bait:
    """What the canary tries to reach: a folder, files, a listening socket."""

    base: Path
    listeners: tuple[socket.socket, ...]

    @property
    def folder(self) -> Path:
        return self.base / "run"

    @property
    def outside(self) -> Path:
        return self.base / "outside"

    @property
    def socket_path(self) -> Path:
        return self.base / "outside" / "socket"

    @property
    def port(self) -> int:
        return int(self.listeners[0].getsockname()[1])

    def breaches(self) -> list[str]:
        found = []
        if (self.outside / "written").exists() or (self.outside / "readable").read_text() != "bait":
            found.append(FILES)
        if any(_was_connected(each) for each in self.listeners):
            found.append(NETWORK)
        if not _are_gone(self.folder / "orphans"):
            found.append(PROCESSES)
        return found


@contextmanager
def _bait() -> Iterator[_Bait]:
    base = Path(tempfile.mkdtemp(prefix="sandbox-probe-"))
    listeners = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    )
    try:
        base.chmod(0o711)
        bait = _Bait(base, listeners)
        bait.folder.mkdir(mode=0o700)
        bait.outside.mkdir()
        bait.outside.chmod(0o777)  # file modes allow everything: the rules must deny it
        (bait.outside / "readable").write_text("bait")
        (bait.outside / "readable").chmod(0o666)
        shutil.copyfile(CANARY, bait.folder / CANARY.name)
        for listener, address in zip(listeners[1:], (str(bait.socket_path), f"\0{bait.socket_path}"), strict=True):
            listener.bind(address)
            listener.listen()
        bait.socket_path.chmod(0o777)
        yield bait
    finally:
        for listener in listeners:
            listener.close()
        shutil.rmtree(base, ignore_errors=True)


def _was_connected(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _are_gone(file: Path) -> bool:
    """Whether the processes that the canary left behind are gone."""
    try:
        pids = [int(word) for word in file.read_text().split()]
    except OSError:
        return False  # it could not try
    end = time.monotonic() + GONE_SECONDS
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)
