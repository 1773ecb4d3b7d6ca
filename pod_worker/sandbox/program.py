"""The forked process that becomes the untrusted program.

It confines itself, reports on a pipe, and runs the program: a Python file in this warm interpreter, or another
program by execve(2). Nothing here returns to the caller of `start`.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import fcntl
import gc
import io
import multiprocessing.process
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import msgspec

from pod_worker.core.execution import ExecutionRequest
from pod_worker.core.failure import FailureCode
from pod_worker.process.tree import die_with_parent
from pod_worker.sandbox import host_sockets, preload
from pod_worker.sandbox.kernel import confinement, shared_memory, syscalls
from pod_worker.sandbox.kernel.confinement import Confinement

HOME_FOLDER, SCRATCH_FOLDER = ".home", ".tmp"  # below the folder of the program
UMASK = 0o007  # the user of the stage shares the group
SETUP_FAILED = 125
PASSED_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


class SetupReport(msgspec.Struct):
    """What the process says before it becomes the program."""

    seed_proof: str = ""
    code: str | None = None  # of a failure
    message: str = ""


class SetupError(Exception):
    """The request cannot be executed; the message has the cause."""


def start(
    request: ExecutionRequest,
    limits: Confinement,
    protected: tuple[int, ...],
    output_fd: int,
    report_fd: int,
    hosts_fd: int = -1,
) -> int:
    """Fork; returns the pid of the program.

    `protected`: processes that it must not signal. `hosts_fd`: where it asks for connections to named hosts.
    """
    keeper = os.getpid()
    other_threads = _threads_of_this_user()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        if arm := die_with_parent(keeper):
            arm()
        _take_descriptors(output_fd, report_fd, hosts_fd)
        _become(request, limits, protected, other_threads)
    except SetupError as error:
        _report(SetupReport(code=FailureCode.INVALID_INPUT, message=str(error)))
    except BaseException as error:
        _report(
            SetupReport(code=FailureCode.ENVIRONMENT, message=f"the sandbox cannot start a program: {error!r}")
        )
    finally:
        os._exit(SETUP_FAILED)


def environment(request: ExecutionRequest, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program: an allow-list, and what the request gives."""
    folder = request.folder
    names = (*PASSED_VARIABLES, *THREAD_VARIABLES)
    return {
        "PATH": DEFAULT_PATH,
        "LANG": "C.UTF-8",
        **{name: inherited[name] for name in names if name in inherited},
        "HOME": str(folder / HOME_FOLDER),
        "TMPDIR": str(folder / SCRATCH_FOLDER),
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(folder / HOME_FOLDER),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, request.gpus)),
        **request.environment,
    }


# ── the forked process ──────────────────────────────────────────────────────────────────────────────────────

_REPORT_FD, _HOSTS_FD = 3, 4


def _take_descriptors(output_fd: int, report_fd: int, hosts_fd: int) -> None:
    """Close everything but 0 (empty), 1 and 2 (output), 3 (report) and 4 (hosts)."""
    null = os.open(os.devnull, os.O_RDONLY)
    # First out of the way: a target may be the source of another one. Nothing to ask on: an empty file.
    sources = (null, output_fd, report_fd, hosts_fd if hosts_fd >= 0 else null)
    null, output, report, hosts = (fcntl.fcntl(fd, fcntl.F_DUPFD, _HOSTS_FD + 1) for fd in sources)
    for target, fd in ((0, null), (1, output), (2, output), (_REPORT_FD, report), (_HOSTS_FD, hosts)):
        os.dup2(fd, target, inheritable=target < _REPORT_FD)
    os.closerange(_HOSTS_FD + (hosts_fd >= 0), os.sysconf("SC_OPEN_MAX"))


def _become(
    request: ExecutionRequest, limits: Confinement, protected: tuple[int, ...], other_threads: int
) -> NoReturn:
    _reset_signals()
    os.umask(UMASK)
    # Files in /proc/self belong to root without it, and CUDA could not name its threads. Landlock denies other
    # programs the access.
    syscalls.prctl(confinement.PR_SET_DUMPABLE, 1)
    _volunteer_for_the_oom_killer()
    os.chdir(request.folder)
    for name in (HOME_FOLDER, SCRATCH_FOLDER):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o770)
    variables = environment(request, os.environ)
    confinement.set_limits(request, other_threads)
    if request.argv[0].endswith(".py") and not os.path.isabs(request.argv[0]):
        _become_python(request, limits, protected, variables)
    program = request.argv[0]
    if not os.access(program, os.X_OK):
        raise SetupError(f"{program} is not a program that can be executed here")
    limits.apply(request, protected)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    _send_report(SetupReport())
    try:
        os.execve(program, list(request.argv), variables)
    except OSError as error:
        raise SetupError(f"{program} cannot be executed: {error.strerror}") from None


def _become_python(
    request: ExecutionRequest, limits: Confinement, protected: tuple[int, ...], variables: dict[str, str]
) -> NoReturn:
    path = request.folder / request.argv[0]
    if not path.is_file():
        raise SetupError(f"{path} is not a file")
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:] = [str(request.folder), *(each for each in sys.path if _is_library(each, limits.python_paths))]
    sys.argv[:] = list(request.argv)
    sys.dont_write_bytecode = True
    _forget_folders_of_the_server()
    if request.unix_sockets or request.loopback:
        _use_short_socket_paths(os.getppid())
    limits.apply(request, protected)
    threads = variables.get("OMP_NUM_THREADS", "")
    preload.set_threads(int(threads) if threads.isdigit() and int(threads) else os.cpu_count() or 1)
    proof = preload.seed_all(request.seed)
    _open_standard_streams()
    gc.enable()
    _send_report(SetupReport(seed_proof=proof))
    os.close(_REPORT_FD)
    if request.hosts:
        host_sockets.install(_HOSTS_FD)
    code = _run_main(path)
    os._exit(code)


def _run_main(path: Path) -> int:
    """Execute the file as `__main__`; returns the exit code.

    It ends as the interpreter does.
    """
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=builtins)
    sys.modules["__main__"] = main
    code = 0
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), main.__dict__)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        code = 1
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace.tb_next if trace and trace.tb_next else None)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does at its end
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    return code


def _exit_code(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _volunteer_for_the_oom_killer() -> None:
    """The kernel then kills the program first, not the worker."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _open_standard_streams() -> None:
    """New objects: those of the server may hold text, and have the server's settings."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.__stdin__ = sys.stdin  # type: ignore[misc]


def _forget_folders_of_the_server() -> None:
    """Libraries keep what they read from HOME and TMPDIR at first."""
    tempfile.tempdir = None
    if matplotlib := sys.modules.get("matplotlib"):
        for name in ("get_configdir", "get_cachedir"):
            if clear := getattr(getattr(matplotlib, name, None), "cache_clear", None):
                clear()


def _use_short_socket_paths(keeper: int) -> None:
    """Sockets of multiprocessing lie below /dev/shm.

    The path of a UNIX socket has at most 107 bytes; that of a run's folder is often longer.
    """
    path = shared_memory.make_socket_folder(keeper)
    multiprocessing.process.current_process()._config["tempdir"] = path  # type: ignore[attr-defined]


def _is_library(entry: str, python_paths: tuple[str, ...]) -> bool:
    real = os.path.realpath(entry) if entry else ""
    return any(real == path or real.startswith(path + os.sep) for path in python_paths)


def _threads_of_this_user() -> int:
    """Of the whole machine; RLIMIT_NPROC counts them all."""
    wanted, count = os.getuid(), 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                fields = dict(line.split(b":", 1) for line in file if line.startswith((b"Uid:", b"Threads:")))
        except OSError:
            continue
        if int(fields[b"Uid"].split()[0]) == wanted:
            count += int(fields[b"Threads"])
    return count


def _send_report(report: SetupReport) -> None:
    os.write(_REPORT_FD, msgspec.json.encode(report) + b"\n")


def _report(report: SetupReport) -> None:
    with contextlib.suppress(OSError):
        _send_report(report)
