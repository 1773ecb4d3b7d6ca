"""The warm server: imports libraries once, forks a keeper for each execution.

Run as `python -P -m pod_worker.sandbox.server FD [MODULE…]`; FD is its end of a SOCK_SEQPACKET pair, the only way
to reach it. It never runs a program, and trusts its client as far as its own user can act.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from pod_worker.core.failure import FailureCode
from pod_worker.process.tree import (
    ChildExitPipe,
    become_subreaper,
    deny_inspection,
    die_with_parent,
    kill_tree,
    reap,
    send_signal,
)
from pod_worker.sandbox import identity, protocol
from pod_worker.sandbox.keeper import Keeper
from pod_worker.sandbox.kernel import shared_memory
from pod_worker.sandbox.kernel.confinement import Confinement
from pod_worker.sandbox.preload import DEFAULT_MODULES, preload
from pod_worker.sandbox.protocol import (
    CommandDone,
    DescribeCommand,
    ExecuteCommand,
    ExecutionRefused,
    KeeperStarted,
    RemoveCommand,
    ServerDescription,
    SweepCommand,
)

log = logging.getLogger(__name__)
EXECUTIONS_LIMIT = 1000  # then the server starts again, as soon as it is idle
GROWTH_LIMIT_BYTES = 512 * 2**20
COMMAND_FAILED = 70


class Server:
    def __init__(self, control_fd: int, preloaded: tuple[str, ...], has_own_user: bool) -> None:
        self._control = socket.socket(fileno=control_fd)
        self._preloaded = preloaded
        self._has_own_user = has_own_user
        self._confinement = Confinement.of_this_process()
        self._exits = ChildExitPipe()
        self._keepers: set[int] = set()
        self._executions = 0
        self._first_rss = _own_rss()

    def serve(self) -> bool:
        """True when the server should start again, False when the client is gone."""
        while True:
            readable, _, _ = select.select([self._control, self._exits.reader], [], [])
            self._exits.clear()
            self._collect()
            if self._control in readable:
                try:
                    received = protocol.receive_command(self._control)
                except msgspec.MsgspecError as error:
                    log.error("the sandbox server received a message that is no command: %s", error)
                    continue
                if received is None:
                    kill_tree(os.getpid())
                    return False
                self._handle(*received)
            if not self._keepers and self._is_worn():
                self._control.detach()  # the next server has the same descriptor
                return True

    def _handle(self, command: protocol.Command, answers: int, output: int) -> None:
        try:
            match command:
                case ExecuteCommand():
                    self._executions += 1
                    self._fork(lambda: self._execute(command, answers, output), answers, output)
                case RemoveCommand(folder):
                    self._fork(lambda: _remove(folder, answers), answers)
                case SweepCommand(keeper):
                    self._sweep(keeper)
                    protocol.send_answer(answers, CommandDone())
                case DescribeCommand():
                    protocol.send_answer(answers, self._describe())
        finally:
            for fd in (answers, output):
                if fd >= 0:
                    os.close(fd)

    def _fork(self, action: Callable[[], object], answers: int, output: int = -1) -> None:
        """Run the action in a child that never returns here."""
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            refused = ExecutionRefused(FailureCode.ENVIRONMENT, f"the sandbox cannot start a process: {error}")
            protocol.send_answer(answers, refused)
            return
        if pid:
            self._keepers.add(pid)
            return
        try:
            os.setsid()
            if arm := die_with_parent(server):
                arm()
            _close_all_except(answers, output)
            action()
            os._exit(0)
        finally:
            os._exit(COMMAND_FAILED)

    def _execute(self, command: ExecuteCommand, answers: int, output: int) -> None:
        become_subreaper()
        protocol.send_answer(answers, KeeperStarted(os.getpid()))
        answer: msgspec.Struct
        try:
            keeper = Keeper(command.request, self._confinement, answers, output, has_own_user=self._has_own_user)
            answer = keeper.run((os.getppid(),))
        except Exception as error:
            log.exception("a keeper failed")
            kill_tree(os.getpid())
            answer = ExecutionRefused(FailureCode.ENVIRONMENT, f"the sandbox failed: {error!r}")
        protocol.send_answer(answers, answer)

    def _collect(self) -> None:
        """Collect ended keepers.

        One that failed may have left processes behind, which are ours now.
        """
        ended = {pid: status for pid, status in reap().items() if pid in self._keepers}
        self._keepers -= ended.keys()
        if any(ended.values()):
            self._sweep(0)
        if ended and not self._keepers and self._has_own_user:
            shared_memory.clear()

    def _sweep(self, keeper: int) -> None:
        if keeper in self._keepers:
            send_signal(keeper, signal.SIGKILL)
            self._keepers.discard(keeper)
        kill_tree(os.getpid(), spared=self._keepers)

    def _describe(self) -> ServerDescription:
        return ServerDescription(
            pid=os.getpid(),
            uid=os.geteuid(),
            gid=os.getegid(),
            landlock_abi=self._confinement.landlock_abi,
            preloaded=self._preloaded,
            executions=self._executions,
        )

    def _is_worn(self) -> bool:
        return self._executions >= EXECUTIONS_LIMIT or _own_rss() - self._first_rss > GROWTH_LIMIT_BYTES


def _remove(folder: Path, answers: int) -> None:
    """Everything below the folder that this user can delete."""
    identity.open_closed_folders(folder)
    shutil.rmtree(folder, ignore_errors=True)
    protocol.send_answer(answers, CommandDone())


def _close_all_except(*kept: int) -> None:
    first = 3
    for fd in sorted(each for each in kept if each >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _own_rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _use_private_home() -> None:
    """A folder for caches of libraries, matplotlib's list of fonts above all.

    Its name is fixed, so that the next server finds the caches; another user's folder of that name is not used.
    """
    home = os.path.join(tempfile.gettempdir(), f"pod-worker-sandbox-{os.geteuid()}")
    try:
        os.mkdir(home, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(home)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise PermissionError(f"{home} is not a private folder of user {os.geteuid()}; remove it")
    os.environ.update(HOME=home, MPLCONFIGDIR=home, TMPDIR=home)
    tempfile.tempdir = home


def main(arguments: list[str]) -> None:
    """server.py FD HAS_OWN_USER [MODULE…]"""
    fd, has_own_user, *modules = arguments
    deny_inspection()
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(int(fd), False)
    _use_private_home()
    preloaded = preload(modules or DEFAULT_MODULES)
    if Server(int(fd), preloaded, has_own_user == "1").serve():
        os.set_inheritable(int(fd), True)
        os.execv(sys.executable, [sys.executable, "-P", "-m", "pod_worker.sandbox.server", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
