"""Process trees on Linux: adopt orphans, list and kill, die with the parent.

Programs that are started by path (the guard, process 1 of a fake pod) import this module, so it imports little
and starts in milliseconds. On other systems `descendants` is empty and the prctl(2) calls do nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
SWEEP_SECONDS = 10.0  # how long to continue killing a tree that keeps growing
CHASE_SECONDS = 0.02
REAP_LIMIT = 1000


def become_subreaper(enabled: bool = True) -> None:
    """Orphans of our descendants become our children instead of init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, int(enabled))


def deny_inspection() -> None:
    """Deny other processes of this user our memory, environment and descriptors."""
    _prctl(PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """A function to call between fork and exec: SIGKILL for us when `parent` dies.

    The kernel sends the signal when the *thread* that forked ends. Call it after every change of the user.
    """
    if sys.platform != "linux":
        return None
    # Looked up before the fork, where locks are safe. PyDLL keeps the GIL, which must not change hands after it.
    prctl = ctypes.PyDLL(None).prctl

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the prctl
            os._exit(1)

    return arm


class ChildExitPipe:
    """A descriptor that becomes readable when a child ends.

    It is for select(2), in the main thread only.
    """

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)

    def clear(self) -> None:
        try:
            os.read(self.reader, 4096)
        except BlockingIOError:
            pass


def _ignore(*_: object) -> None:
    pass


def pids() -> list[int]:
    """Every process of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if sys.platform == "linux" else []


def descendants(root: int, spared: Collection[int] = ()) -> list[int]:
    """Every living process below `root`, nearest first.

    Zombies and the trees of `spared` are left out.
    """
    children: dict[int, list[int]] = {}
    for pid in pids():
        stat = _stat(pid)
        if stat is not None and stat[0] != "Z":
            children.setdefault(stat[1], []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = [pid for pid in children.get(queue.pop(0), []) if pid not in spared]
        found += below
        queue += below
    return found


def children(root: int) -> list[int]:
    """Living processes whose parent is `root`."""
    return [pid for pid in pids() if (stat := _stat(pid)) is not None and stat[1] == root and stat[0] != "Z"]


def _stat(pid: int) -> tuple[str, int] | None:
    """(state, parent), or None for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return state.decode(), int(parent)


def kill_tree(root: int, seconds: float = SWEEP_SECONDS, spared: Collection[int] = ()) -> int:
    """SIGKILL everything below `root`, our own pid; returns how many survive.

    Each round stops the whole tree before it kills, so that a fork bomb cannot outrun the sweep. A process that
    forks and exits at once is in no list by the time it is read: its group is killed as one, or it is chased.
    """
    end = time.monotonic() + seconds
    while True:
        left = descendants(root, spared)
        known = frozenset(pids())
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for target in [*(-group for group in _groups(left)), *left]:
                send_signal(target, number)
        reap(left)
        is_done = not left and (not _chase(root, known) if spared else not _has_child())
        if is_done or time.monotonic() >= end:
            return len(left)
        _chase(root, known)


def _chase(root: int, known: Collection[int]) -> int:
    """Kill what is below `root` and not `known`, for a moment; returns how many.

    Looking at new processes only is fast enough to find one before its next fork.
    """
    end = time.monotonic() + CHASE_SECONDS
    count = 0
    while time.monotonic() < end:
        found = [pid for pid in pids() if pid not in known and _is_below(root, pid)]
        for pid in found:
            send_signal(pid, signal.SIGKILL)
        reap(found)
        count += len(found)
    return count


def _is_below(root: int, pid: int) -> bool:
    while pid > 1:
        stat = _stat(pid)
        if stat is None:
            return False
        pid = stat[1]
        if pid == root:
            return True
    return False


def _has_child() -> bool:
    """Whether we have any child.

    While an orphan of our tree lives, we have one: the answer is exact.
    """
    try:
        reap()
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _groups(members: Collection[int]) -> list[int]:
    """The process groups of these processes without our own.

    All of them lie below us, as their sessions do.
    """
    found: set[int] = set()
    for pid in members:
        try:
            found.add(os.getpgid(pid))
        except ProcessLookupError:
            continue
    return sorted(found - {os.getpgrp()})


def send_signal(pid: int, number: int) -> None:
    """A signal to a process that may be gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def reap(wanted: Collection[int] | None = None) -> dict[int, int]:
    """Collect children that ended, all or only `wanted`; pid to wait status."""
    if wanted is None:
        return _reap_all()
    found: dict[int, int] = {}
    for pid in wanted:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # not our child, or collected already
        if ended:
            found[ended] = status
    return found


def _reap_all() -> dict[int, int]:
    """Collect at most REAP_LIMIT ended children.

    Children that end in quick succession must not keep the caller here.
    """
    found: dict[int, int] = {}
    while len(found) < REAP_LIMIT:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        found[pid] = status
    return found
