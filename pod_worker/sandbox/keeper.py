"""The keeper of one execution: starts, watches and ends the program.

It is a process of its own, the subreaper of the program's tree in another session. It enforces what the kernel
does not: wall time, memory, CPU time and processes of the whole tree, disk of the folder, output. At the end it
kills whatever is left, makes the files readable for the group, and reports.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import stat
import time
from pathlib import Path

import msgspec

from pod_worker.core.execution import ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import FailureCode
from pod_worker.process.oom_kills import OomKillCounter
from pod_worker.process.tree import ChildExitPipe, descendants, kill_tree, reap, send_signal
from pod_worker.sandbox import program, protocol, usage
from pod_worker.sandbox.kernel import shared_memory
from pod_worker.sandbox.kernel.confinement import Confinement
from pod_worker.sandbox.named_hosts import HostBroker
from pod_worker.sandbox.output import BoundedOutput
from pod_worker.sandbox.program import SetupReport
from pod_worker.sandbox.protocol import ExecutionFinished, ExecutionRefused

FLOOD_FACTOR = 1024  # so much more than what is kept may be written
INTERRUPT_SECONDS = 1.0  # for a traceback of what took so long, before the kill
MEASURE_SECONDS = 0.1
DISK_SECONDS = 0.5
COST_FACTOR = 25  # a measurement takes at most 1/25 of the time
READ_BYTES = 65_536


class _Timer:
    """When to measure next: the longer it took, the later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.due = time.monotonic() + seconds

    def ran(self, began: float) -> None:
        now = time.monotonic()
        self.due = now + max(self._seconds, COST_FACTOR * (now - began))


class Keeper:
    def __init__(
        self,
        request: ExecutionRequest,
        confinement: Confinement,
        connection_fd: int,
        copy_fd: int = -1,
        *,
        has_own_user: bool,
    ) -> None:
        """`connection_fd`: STOP or TERMINATE comes there; its end is a STOP.

        `copy_fd`: where all of its output goes at once; -1 for nowhere.
        """
        self._request = request
        self._limits = request.limits
        self._confinement = confinement
        self._connection_fd = connection_fd
        self._copy_fd = copy_fd
        self._is_terminating = False
        self._has_own_user = has_own_user
        self._output = BoundedOutput(request.limits.output_bytes)
        self._end: ExecutionEnd | None = None
        self._note = ""
        self._status: int | None = None
        self._peak_rss = 0
        self._oom_kills = OomKillCounter()
        self._exits = ChildExitPipe()
        self._pids: tuple[int, ...] = ()
        self._memory_timer = _Timer(MEASURE_SECONDS)
        self._disk_timer = _Timer(DISK_SECONDS)

    def run(self, protected: tuple[int, ...]) -> ExecutionFinished | ExecutionRefused:
        """Returns when the whole tree is gone."""
        began = time.monotonic()
        self._output_fd, output = os.pipe()
        report_fd, report = os.pipe()
        os.set_blocking(self._output_fd, False)
        broker = HostBroker(self._request.hosts) if self._request.hosts else None
        channel = broker.program_end.fileno() if broker else -1
        self._pid = program.start(
            self._request, self._confinement, (os.getpid(), *protected), output, report, channel
        )
        if broker:
            broker.start()
        os.close(output)
        os.close(report)
        self._watch(began + self._limits.wall_seconds)
        survivors = kill_tree(os.getpid())
        if broker:
            broker.close()
        seconds = time.monotonic() - began
        self._read_output()
        setup = _read_report(report_fd)
        self._hand_back()
        if survivors:
            return ExecutionRefused(
                FailureCode.ENVIRONMENT, f"{survivors} processes of the program cannot be killed"
            )
        if setup is None and self._end is None:
            return ExecutionRefused(FailureCode.ENVIRONMENT, "the sandbox could not start the program")
        if setup and setup.code:
            return ExecutionRefused(setup.code, setup.message)
        return ExecutionFinished(self._result(seconds, setup.seed_proof if setup else ""))

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────

    def _watch(self, deadline: float) -> None:
        while self._end is None and self._is_running():
            due = min(deadline, self._memory_timer.due, self._disk_timer.due)
            self._wait(max(due - time.monotonic(), 0.0))
            if time.monotonic() >= deadline:
                self._stop(ExecutionEnd.TIMED_OUT, f"stopped after {self._limits.wall_seconds:g} s")
            self._measure()
        if self._end is ExecutionEnd.TIMED_OUT and self._status is None:
            self._interrupt()

    def _wait(self, seconds: float) -> None:
        """Until something happens: output, the end of a process, a request to stop."""
        sources = [self._connection_fd, self._output_fd, self._exits.reader]
        readable, _, _ = select.select(sources, [], [], seconds)
        if self._connection_fd in readable:
            self._obey()
        if self._output_fd in readable:
            self._read_output(once=True)
        self._exits.clear()
        self._status = reap().get(self._pid, self._status)

    def _is_running(self) -> bool:
        """While it ends in its own time, every process counts, not the shell alone."""
        return self._status is None or (self._is_terminating and bool(descendants(os.getpid())))

    def _obey(self) -> None:
        received = os.read(self._connection_fd, READ_BYTES)
        if not received or protocol.STOP in received:
            self._stop(ExecutionEnd.STOPPED, "")
        elif not self._is_terminating:
            self._is_terminating = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGTERM)

    def _interrupt(self) -> None:
        """SIGINT, so that Python prints where it was; the kill follows in any case."""
        end = time.monotonic() + INTERRUPT_SECONDS
        send_signal(self._pid, signal.SIGINT)
        while self._status is None and (left := end - time.monotonic()) > 0:
            self._wait(left)

    def _stop(self, end: ExecutionEnd, note: str) -> None:
        if self._end is None:
            self._end, self._note = end, note

    def _read_output(self, once: bool = False) -> None:
        while True:
            try:
                data = os.read(self._output_fd, READ_BYTES)
            except BlockingIOError:
                return
            self._output.add(data)
            if self._copy_fd >= 0:
                self._copy(data)
            elif self._output.bytes > self._limits.output_bytes * FLOOD_FACTOR:
                self._stop(ExecutionEnd.OUTPUT, f"stopped after {self._output.bytes} bytes of output")
                return
            if once or not data:
                return

    def _copy(self, data: bytes) -> None:
        """Waits for the reader, as a program that writes to it would."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._copy_fd, rest) :]
        except OSError:
            self._copy_fd = -1  # the reader is gone, and so is its run

    def _measure(self) -> None:
        now = time.monotonic()
        if now >= self._memory_timer.due:
            self._measure_tree()
            self._memory_timer.ran(now)
        now = time.monotonic()
        if now >= self._disk_timer.due:
            self._measure_disk()
            self._disk_timer.ran(now)

    def _measure_tree(self) -> None:
        limits = self._limits
        found = usage.measure_tree(os.getpid())
        self._pids = found.pids
        self._peak_rss = max(self._peak_rss, found.rss_bytes)
        if limits.memory_bytes is not None and found.rss_bytes > limits.memory_bytes:
            exact = usage.shared_memory_bytes(found.pids)
            if exact > limits.memory_bytes:
                self._stop(
                    ExecutionEnd.MEMORY, f"stopped at {exact} bytes of memory; {limits.memory_bytes} allowed"
                )
        if limits.cpu_seconds is not None and found.cpu_seconds > limits.cpu_seconds:
            self._stop(ExecutionEnd.TIMED_OUT, f"stopped after {found.cpu_seconds:.1f} s of CPU time")
        if len(found.pids) > limits.processes:
            self._stop(
                ExecutionEnd.SIGNALED, f"stopped at {len(found.pids)} processes; {limits.processes} allowed"
            )

    def _measure_disk(self) -> None:
        try:
            used = usage.folder_bytes(self._request.folder) + usage.deleted_file_bytes(self._pids)
            if self._has_own_user:  # no other process writes there as this user
                used += usage.folder_bytes(shared_memory.FOLDER, os.geteuid())
        except OSError as error:
            self._stop(ExecutionEnd.DISK, f"stopped because its use of the disk cannot be measured: {error}")
            return
        if used > self._limits.disk_bytes:
            self._stop(ExecutionEnd.DISK, f"stopped at {used} bytes on disk; {self._limits.disk_bytes} allowed")

    # ── at the end ──────────────────────────────────────────────────────────────────────────────────────

    def _hand_back(self) -> None:
        """Remove scratch files, and let the group read and delete the rest."""
        shutil.rmtree(self._request.folder / program.SCRATCH_FOLDER, ignore_errors=True)
        shared_memory.remove_socket_folders(os.getpid())
        for folder in (self._request.folder, *self._request.writable):
            open_for_group(folder)

    def _result(self, seconds: float, seed_proof: str) -> ExecutionResult:
        end, code, number = self._ending()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        note = f"\n[{self._note}]\n" if self._note else ""
        return ExecutionResult(
            end=end,
            exit_code=code,
            signal=number,
            seconds=seconds,
            cpu_seconds=used.ru_utime + used.ru_stime,
            peak_rss_bytes=max(self._peak_rss, used.ru_maxrss * 1024),
            output=self._output.text() + note,
            output_bytes=self._output.bytes,
            seed_proof=seed_proof,
        )

    def _ending(self) -> tuple[ExecutionEnd, int | None, int | None]:
        if self._end is ExecutionEnd.SIGNALED:
            return self._end, None, int(signal.SIGKILL)
        if self._end is not None:
            return self._end, None, None
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if code >= 0:
            return ExecutionEnd.EXITED, code, None
        if -code == signal.SIGXCPU:
            return ExecutionEnd.TIMED_OUT, None, -code
        if -code == signal.SIGKILL and self._oom_kills.has_increased():
            return ExecutionEnd.MEMORY, None, -code
        return ExecutionEnd.SIGNALED, None, -code


def open_for_group(folder: Path) -> None:
    """Group rights like the owner's, where this user is the owner.

    No process of the program lives: nothing is exchanged meanwhile. Links are not followed.
    """
    for parent, names, files in os.walk(folder, topdown=True, onerror=None):
        for name in (*names, *files):
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode):
                    continue
                wanted = 0o770 if stat.S_ISDIR(found.st_mode) else 0o660
                if found.st_mode & 0o7777 != found.st_mode & 0o0777 | wanted or found.st_mode & wanted != wanted:
                    os.chmod(path, stat.S_IMODE(found.st_mode) & 0o0777 | wanted)


def _read_report(fd: int) -> SetupReport | None:
    """None when the process ended before it could report."""
    received = b""
    while data := os.read(fd, READ_BYTES):
        received += data
    os.close(fd)
    *_, last, _ = [b"", *received.split(b"\n")]  # a later report replaces an earlier one
    return msgspec.json.decode(last, type=SetupReport) if last else None
