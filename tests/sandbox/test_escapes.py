"""One test for each attack on the sandbox; anchors_2026.md §2.2 lists where they were seen.

Every program is really executed. It prints `reached` with what it got, or the error that stopped it.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionResult
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.kernel import syscalls
from pod_worker.sandbox.starting import LocalStarter
from tests.sandbox.conftest import Execute
from tests.sandbox.support import floor, has_own_user, open_python, wait_until

SECRET = "the-secret-of-the-worker"
# Runs an action; `reached` in the output means that the attack worked.
PRELUDE = """
import ctypes, os, signal, socket, subprocess, sys, time
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def attempt(action):
    try:
        print("reached", action(), flush=True)
    except OSError as error:
        print(type(error).__name__, error.strerror, flush=True)
"""


def assert_denied(result: ExecutionResult, attempts: int = 1) -> None:
    """Each attempt was made, and failed with an error."""
    assert result.end is ExecutionEnd.EXITED, result
    lines = [line for line in result.output.splitlines() if "Error" in line or "reached" in line]
    assert len(lines) >= attempts, result.output
    assert "reached" not in result.output
    assert SECRET not in result.output


@pytest.fixture
def attack(execute: Execute) -> Execute:
    def run(program: str, *arguments: str, **options: object) -> ExecutionResult:
        return execute(PRELUDE + textwrap.dedent(program), *arguments, **options)

    return run


@pytest.fixture
def victim(base: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the starter's user with a secret in its environment and memory."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        env={"WORKER_TOKEN": SECRET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdin
    process.stdout.readline()
    yield process
    assert process.poll() is None, "the program ended a process of the worker"
    process.stdin.close()
    process.stdout.close()
    process.wait()


@pytest.fixture
def hidden(base: Path) -> Path:
    """Hidden labels; the modes of the file allow everything, so only the rules protect it."""
    folder = base / "hidden"
    folder.mkdir()
    (folder / "labels.txt").write_text(SECRET)
    (folder / "labels.txt").chmod(0o666)
    folder.chmod(0o777)
    return folder / "labels.txt"


# ── secrets of processes ────────────────────────────────────────────────────────────────────────────────────


def test_environment_and_memory_of_other_processes(attack: Execute, victim: subprocess.Popen[bytes]) -> None:
    result = attack(
        """
        parent = os.getppid()
        for pid in (int(sys.argv[1]), parent, int(sys.argv[2])):
            for name in ("environ", "mem", "maps"):
                attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
            for name in ("fd/0", "cwd", "root"):
                attempt(lambda: os.readlink(f"/proc/{pid}/{name}"))
        """,
        str(victim.pid),
        str(os.getpid()),
    )
    assert_denied(result, 18)


def test_environment_of_every_process(attack: Execute, victim: subprocess.Popen[bytes]) -> None:
    result = attack("""
        found = b""
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                found += Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
        print("size", len(found), found.count(b"WORKER_TOKEN"))
    """)
    assert result.output.endswith(" 0\n")


def test_ptrace(attack: Execute, victim: subprocess.Popen[bytes]) -> None:
    number = syscalls.number("ptrace")
    result = attack(
        f"""
        for pid in (int(sys.argv[1]), os.getppid()):
            attempt(lambda: call({number}, 16, ctypes.c_long(pid), None, None))
        child = os.fork() or time.sleep(600)
        attempt(lambda: call({number}, 16, ctypes.c_long(child), None, None))
        """,
        str(victim.pid),
    )
    assert_denied(result, 3)


def test_process_vm_readv(attack: Execute, victim: subprocess.Popen[bytes]) -> None:
    result = attack(
        f"""
        buffer = ctypes.create_string_buffer(8)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
        one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
        for pid in (int(sys.argv[1]), os.getppid(), os.getpid()):
            attempt(lambda: call({syscalls.number("process_vm_readv")}, ctypes.c_long(pid), vector, one, vector, one, zero))
        """,
        str(victim.pid),
    )
    assert_denied(result, 3)


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hidden_file_by_name(attack: Execute, hidden: Path) -> None:
    assert_denied(attack("attempt(Path(sys.argv[1]).read_text)", str(hidden)))


def test_a_hidden_file_by_other_names(attack: Execute, hidden: Path, folder: Path) -> None:
    result = attack(
        """
        hidden = sys.argv[1]
        attempt(Path("/proc/self/root" + hidden).read_text)
        attempt(Path(f"/proc/{os.getppid()}/root" + hidden).read_text)
        attempt(Path("/proc/self/cwd/../hidden/labels.txt").read_text)
        attempt(Path("../hidden/labels.txt").read_text)
        os.symlink(hidden, "link")
        attempt(Path("link").read_text)
        os.symlink(os.path.dirname(hidden), "folder")
        attempt(Path("folder/labels.txt").read_text)
        attempt(lambda: os.link(hidden, "hard") or Path("hard").read_text())
        attempt(lambda: os.rename(os.path.dirname(hidden), "moved"))
        """,
        str(hidden),
    )
    assert_denied(result, 8)


def test_a_hidden_file_by_a_renamed_program(attack: Execute, hidden: Path) -> None:
    cat = shutil.which("cat", path=os.defpath)
    result = attack(
        """
        import shutil
        shutil.copy(sys.argv[2], "harmless")
        found = subprocess.run(["./harmless", sys.argv[1]], capture_output=True, text=True)
        print(found.stdout, found.stderr)
        """,
        str(hidden),
        str(cat),
    )
    assert result.is_ok, result
    assert "Permission denied" in result.output
    assert SECRET not in result.output


def test_a_hidden_file_by_the_dynamic_loader(attack: Execute, hidden: Path) -> None:
    loaders = [*Path("/lib64").glob("ld-linux*"), *Path("/lib").glob("ld-linux*")]
    assert loaders
    result = attack(
        """
        found = subprocess.run([sys.argv[2], sys.argv[3], sys.argv[1]], capture_output=True, text=True)
        print(found.stdout, found.stderr)
        """,
        str(hidden),
        str(loaders[0]),
        str(shutil.which("cat", path=os.defpath)),
    )
    assert "Permission denied" in result.output
    assert SECRET not in result.output


def test_a_hidden_file_from_a_program_in_memory(attack: Execute, hidden: Path) -> None:
    """memfd_create stays allowed, since CUDA needs it; a program that is started from there is confined as well."""
    result = attack(
        """
        handle = os.memfd_create("program", 0)
        os.write(handle, Path(sys.argv[2]).read_bytes())
        found = subprocess.run([f"/proc/self/fd/{handle}", sys.argv[1]], pass_fds=(handle,), capture_output=True, text=True)
        print(found.stdout, found.stderr)
        """,
        str(hidden),
        str(shutil.which("cat", path=os.defpath)),
    )
    assert "Permission denied" in result.output
    assert SECRET not in result.output


def test_writing_where_the_host_reads_or_executes(attack: Execute, base: Path) -> None:
    """sitecustomize, .pth and conftest files, git hooks, and temporary folders of other programs."""
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    result = attack(
        """
        import sysconfig
        for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), sys.argv[1], "/tmp", "/var/tmp",
                       "..", "/etc", "/usr/lib", "/usr/local/lib", "/proc/self/root/tmp"):  # absolute-path: ok
            for name in ("sitecustomize.py", "a.pth", "conftest.py"):
                attempt(lambda: Path(folder, name).write_text("import os"))
        """,
        str(base / "open"),
    )
    assert_denied(result, 30)


def test_the_path_of_the_interpreter_is_not_extended_by_the_folder_of_a_neighbour(
    attack: Execute, base: Path
) -> None:
    (base / "neighbour").mkdir()
    (base / "neighbour").chmod(0o777)
    assert_denied(attack("attempt(lambda: Path('../neighbour/numpy.py').write_text('x'))"))


def test_device_nodes_and_mounts(attack: Execute) -> None:
    result = attack(f"""
        attempt(lambda: os.mknod("disk", 0o60660, os.makedev(254, 0)))
        attempt(lambda: call({syscalls.number("mount")}, b"none", b".", b"tmpfs", 0, None))
        attempt(lambda: call({syscalls.number("unshare")}, 0x10000000))
        attempt(lambda: call({syscalls.number("setns")}, 0, 0))
        attempt(lambda: call({syscalls.number("chroot")}, b"."))
        attempt(lambda: call({syscalls.number("clone")}, ctypes.c_ulong(0x10000000 | 17), None, None, None, None))
    """)
    assert_denied(result, 6)


# ── network ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_udp_port_53(attack: Execute) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        server.bind(("127.0.0.1", 0))
        result = attack(
            "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(sys.argv[1]))))",
            str(server.getsockname()[1]),
        )
        assert_denied(result)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_sockets_of_any_family(attack: Execute) -> None:
    result = attack("""
        for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
            for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW", "SOCK_SEQPACKET"):
                attempt(lambda: socket.socket(getattr(socket, family), getattr(socket, kind)))
    """)
    assert_denied(result, 28)
    assert result.output.count("Operation not permitted") == 28  # not: the kernel has no such family


def test_io_uring(attack: Execute) -> None:
    result = attack(f"""
        attempt(lambda: call({syscalls.number("io_uring_setup")}, 4, ctypes.create_string_buffer(256)))
        attempt(lambda: call({syscalls.number("io_uring_enter")}, 0, 0, 0, 0, None, 0))
    """)
    assert_denied(result, 2)
    assert "Operation not permitted" in result.output


@pytest.mark.parametrize("is_abstract", [False, True])
def test_unix_sockets_of_other_processes(attack: Execute, base: Path, is_abstract: bool) -> None:
    """A database or a container service listens on such a socket."""
    address = ("\0" if is_abstract else "") + str(base / "service")
    with closing(socket.socket(socket.AF_UNIX)) as service:
        service.bind(address)
        service.listen()
        if not is_abstract:
            os.chmod(address, 0o777)
        result = attack(
            """
            address = ("\\0" if sys.argv[1] == "True" else "") + sys.argv[2]
            attempt(lambda: socket.socket(socket.AF_UNIX).connect(address))
            left, right = socket.socketpair()
            attempt(lambda: left.connect(address))
            attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            attempt(lambda: left.sendto(b"x", address))
            """,
            str(is_abstract),
            str(base / "service"),
        )
        assert_denied(result, 4)
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()


def test_the_servers_control_socket(attack: Execute, runner: SandboxClient) -> None:
    """No descriptor of it is inherited, and none can be taken from the server."""
    result = attack(
        f"""
        print([name for name in os.listdir("/proc/self/fd") if int(name) > 3])
        server = int(sys.argv[1])
        attempt(lambda: os.listdir(f"/proc/{{server}}/fd"))
        attempt(lambda: os.open(f"/proc/{{server}}/fd/3", os.O_RDWR))
        handle = os.pidfd_open(server)
        attempt(lambda: call({syscalls.number("pidfd_getfd")}, handle, 3, 0))
        """,
        str(runner.server.pid),
    )
    assert result.output.startswith("[]\n")
    assert_denied(result, 3)


# ── the profiles with sockets ───────────────────────────────────────────────────────────────────────────────

OWN_UNIX_SOCKET = """
        server = socket.socket(socket.AF_UNIX)
        server.bind("own")
        server.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect("own")
        print("own socket works", flush=True)
"""


def test_unix_sockets_reach_no_abstract_socket_of_others_and_no_network(
    attack: Execute, runner: SandboxClient, base: Path
) -> None:
    if runner.server.landlock_abi < 6:
        pytest.skip("the scope of abstract sockets needs Landlock version 6")
    with closing(socket.socket(socket.AF_UNIX)) as service:
        service.bind("\0" + str(base / "service"))
        service.listen()
        result = attack(
            OWN_UNIX_SOCKET
            + """
        attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1]))
        attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        attempt(lambda: socket.socket(socket.AF_INET))
        """,
            str(base / "service"),
            unix_sockets=True,
        )
    assert "own socket works" in result.output
    assert_denied(result, 3)


def test_loopback_reaches_its_own_port_and_no_port_of_a_service(attack: Execute, runner: SandboxClient) -> None:
    if runner.server.landlock_abi < 4:
        pytest.skip("rules for ports need Landlock version 4")
    with closing(_service_below_the_ephemeral_ports()) as service:
        result = attack(
            OWN_UNIX_SOCKET
            + """
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname()[:2]).close()
        print("own port works", flush=True)
        for port in (int(sys.argv[1]), 443, 53):
            attempt(lambda: socket.create_connection(("127.0.0.1", port)))
        attempt(lambda: socket.create_server(("127.0.0.1", 8080)))
        attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        """,
            str(service.getsockname()[1]),
            loopback=True,
        )
    assert "own port works" in result.output
    assert_denied(result, 5)
    assert "Connection refused" not in result.output


def _service_below_the_ephemeral_ports() -> socket.socket:
    for port in range(20_000, 29_000):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            continue
    raise AssertionError("no free port")


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_signals_to_worker_server_and_keeper(
    attack: Execute, runner: SandboxClient, victim: subprocess.Popen[bytes]
) -> None:
    result = attack(
        f"""
        handle = os.pidfd_open(os.getppid())
        attempt(lambda: signal.pidfd_send_signal(handle, signal.SIGKILL))
        for pid in (int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), os.getppid(), -os.getpgid(os.getppid()), -1):
            attempt(lambda: os.kill(pid, signal.SIGSTOP))
        keeper = os.getppid()
        attempt(lambda: call({syscalls.number("tgkill")}, keeper, keeper, 9))
        attempt(lambda: call({syscalls.number("tkill")}, keeper, 9))
        info = ctypes.create_string_buffer(128)
        attempt(lambda: call({syscalls.number("rt_sigqueueinfo")}, keeper, 9, info))
        import resource
        attempt(lambda: resource.prlimit(keeper, resource.RLIMIT_CPU, (0, 0)))
        import fcntl
        attempt(lambda: fcntl.fcntl(0, 8, keeper))  # F_SETOWN
        attempt(lambda: os.sched_setscheduler(keeper, os.SCHED_IDLE, os.sched_param(0)))
        attempt(lambda: os.setpriority(os.PRIO_PROCESS, keeper, 19))
        """,
        str(os.getpid()),
        str(victim.pid),
        str(runner.server.pid),
    )
    assert_denied(result, 14)
    assert "reached" not in attack("print('the server works')").output


def test_a_fork_bomb_is_bounded_and_gone_afterwards(attack: Execute, folder: Path) -> None:
    result = attack(
        """
        print("begin", flush=True)
        while True:
            try:
                if os.fork() == 0:
                    open(f"pid-{os.getpid()}", "w").close()
            except OSError:
                time.sleep(0.01)
        """,
        limits={"processes": 20, "wall_seconds": 1.0},
    )
    assert result.end in (ExecutionEnd.TIMED_OUT, ExecutionEnd.SIGNALED)
    pids = [int(path.name.partition("-")[2]) for path in folder.glob("pid-*")]
    assert pids
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_an_orphan_in_a_session_of_its_own_is_gone_when_the_result_is_there(attack: Execute, folder: Path) -> None:
    result = attack("""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                Path("orphan.tmp").write_text(str(os.getpid()))
                os.rename("orphan.tmp", "orphan")
                time.sleep(600)
            os._exit(0)
        while not os.path.exists("orphan"):
            time.sleep(0.01)
    """)
    assert result.is_ok
    assert not os.path.exists(f"/proc/{(folder / 'orphan').read_text()}")


def test_a_program_that_ignores_signals_ends_at_its_wall_time(attack: Execute) -> None:
    result = attack(
        """
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(600)
        """,
        limits={"wall_seconds": 0.3},
    )
    assert result.end is ExecutionEnd.TIMED_OUT
    assert result.seconds < 30


def test_a_program_that_stops_itself_ends_at_its_wall_time(attack: Execute) -> None:
    result = attack("os.kill(os.getpid(), signal.SIGSTOP)", limits={"wall_seconds": 0.3})
    assert result.end is ExecutionEnd.TIMED_OUT


# ── resources ───────────────────────────────────────────────────────────────────────────────────────────────


def test_one_large_file(attack: Execute, folder: Path) -> None:
    result = attack(
        "attempt(lambda: [open('large', 'ab').write(bytes(2**20)) for _ in range(4)])",
        limits={"file_bytes": 2**20},
    )
    assert_denied(result)
    assert (folder / "large").stat().st_size <= 2**20


def test_files_in_a_folder_that_the_keeper_cannot_read(attack: Execute) -> None:
    result = attack(
        "os.mkdir('closed', 0o300)\nprint('made', flush=True)\ntime.sleep(60)", limits={"wall_seconds": 30.0}
    )
    if not has_own_user() and os.geteuid() == 0:
        pytest.skip("root reads every folder: the attack does not exist here")
    assert result.end is ExecutionEnd.DISK
    assert "cannot be measured" in result.output


def test_memory_is_freed_after_a_hog(attack: Execute) -> None:
    result = attack(
        "kept = [bytearray(b'x' * 2**24) for _ in range(1000)]",
        limits={"memory_bytes": 2**28, "wall_seconds": 60.0},
    )
    assert result.end is ExecutionEnd.MEMORY


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no shared memory on this machine")
def test_shared_memory_does_not_outlive_the_program(attack: Execute) -> None:
    if not has_own_user():
        pytest.skip("files of the worker's own user in /dev/shm are not told apart")
    name = f"left-by-{os.getpid()}"
    assert attack(f"Path('/dev/shm/{name}').write_text('x')").is_ok
    wait_until(lambda: not Path("/dev/shm", name).exists())


def test_kernel_objects_that_would_outlive_the_program(attack: Execute) -> None:
    result = attack(f"""
        attempt(lambda: call({syscalls.number("shmget")}, 0, 4096, 0o1600))
        attempt(lambda: call({syscalls.number("msgget")}, 0, 0o1600))
        attempt(lambda: call({syscalls.number("semget")}, 0, 1, 0o1600))
        attempt(lambda: call({syscalls.number("add_key")}, b"user", b"name", b"x", 1, -3))
        attempt(lambda: call({syscalls.number("bpf")}, 0, None, 0))
    """)
    assert_denied(result, 5)


# ── the sandbox itself ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of 32-bit programs exist on x86-64 only")
def test_system_calls_of_another_architecture(attack: Execute) -> None:
    """int 0x80 has other numbers, so the filter ends the process."""
    result = attack("""
        import mmap
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(bytes([0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3]))  # push rbx; getpid by int 0x80; ret
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        print("reached", function(), flush=True)
    """)
    assert (result.end, result.signal) == (ExecutionEnd.SIGNALED, signal.SIGSYS)
    assert "reached" not in result.output


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the x32 numbers exist on x86-64 only")
def test_system_calls_by_their_x32_numbers(attack: Execute) -> None:
    assert_denied(attack(f"attempt(lambda: call(0x40000000 | {syscalls.number('socket')}, 2, 1, 0))"))


def test_rules_cannot_be_taken_back(attack: Execute, hidden: Path) -> None:
    result = attack(
        """
        from multiprocessing import get_context
        def read(path):
            try:
                return Path(path).read_text()
            except OSError as error:
                return str(error)
        with get_context("fork").Pool(1) as pool:
            print(pool.map(read, [sys.argv[1]]))
        print(libc.prctl(38, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0))  # no_new_privs: set to 0, get
        attempt(Path(sys.argv[1]).read_text)
        """,
        str(hidden),
    )
    assert_denied(result)
    assert "-1 1" in result.output


def test_privileged_programs_gain_nothing(attack: Execute, hidden: Path) -> None:
    found = [path for name in ("su", "mount", "passwd") if (path := shutil.which(name, path=os.defpath))]
    result = attack(
        """
        for path in sys.argv[1:]:
            print(subprocess.run([path], capture_output=True, text=True, stdin=subprocess.DEVNULL).returncode != 0)
        print(os.getresuid(), Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0])
        """,
        *found,
    )
    assert result.is_ok, result
    assert result.output.split()[-1] == "0" * 16
    if has_own_user():
        assert "(61998, 61998, 61998)" in result.output


def test_without_landlock_the_start_is_refused(library_path: dict[str, str], base: Path) -> None:
    """The system call returns ENOSYS, as on kernels without Landlock; no setting of a job changes the answer."""
    wrapper = base / "python"
    wrapper.write_text(
        f"#!{open_python()}\n"
        "import os, sys\n"
        f"sys.path.insert(0, {library_path['PYTHONPATH'].split(os.pathsep)[0]!r})\n"
        "from pod_worker.sandbox.kernel import seccomp, syscalls\n"
        "syscalls.prctl(38, 1)\n"
        "seccomp.apply(seccomp.assemble([seccomp.Denial('landlock_create_ruleset', code=38)]))\n"
        f"os.execv({open_python()!r}, [{open_python()!r}, *sys.argv[1:]])\n"
    )
    wrapper.chmod(0o755)
    starter = LocalStarter(["random"], python=str(wrapper), variables=library_path)
    with pytest.raises(RunError, match=r"the protection files") as caught:
        SandboxClient(starter, floor())
    assert caught.value.code is FailureCode.ENVIRONMENT
    assert "POD_WORKER_SANDBOX_FLOOR" in caught.value.message
