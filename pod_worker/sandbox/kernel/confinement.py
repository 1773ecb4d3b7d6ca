"""What a program may reach: files and devices, sockets, processes, and its limits.

Built once in the server, applied in the forked program. Order matters: rules are opened before they restrict.
"""

from __future__ import annotations

import errno
import glob
import math
import os
import resource
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.execution import ExecutionRequest
from pod_worker.sandbox.kernel import landlock, seccomp, shared_memory, syscalls
from pod_worker.sandbox.kernel.landlock import DEVICE, READ, READ_AND_EXECUTE, WRITE, FileRight, Ruleset

# /etc as a whole is not readable: images keep credentials there, for example RunPod in /etc/rp_environment.
SYSTEM_PATHS = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/alternatives", "/etc/ca-certificates", "/etc/fonts",
    "/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/localtime", "/etc/magic", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/papersize",
    "/etc/paperspecs", "/etc/passwd", "/etc/pki/tls/certs", "/etc/protocols", "/etc/services", "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf", "/etc/texmf", "/etc/timezone", "/var/cache/fontconfig", "/var/lib/texmf", "/proc",
    "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*", "/dev/kfd")
# torchrun's default port and those that the kernel gives out. No service of the internet listens on these.
LOOPBACK_PORTS = (0, *range(29_400, 29_600))
EPHEMERAL_PORTS_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
OPEN_FILES = 4096
THREADS_PER_CPU = 4
CPU_LIMIT_MARGIN_SECONDS = 5
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 4, 38, 24, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the server found on this machine, for every program."""

    landlock_abi: int  # 0: none
    python_paths: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> Confinement:
        return cls(landlock.abi_version(), python_paths())

    def apply(self, request: ExecutionRequest, protected: tuple[int, ...]) -> None:
        """Restrict this process, a child of the keeper, for good. Raises OSError.

        `protected` are the processes of the same user that it must not signal.
        """
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError(errno.EBUSY, "a library started a thread, which the rules would not restrict")
        filters = seccomp.assemble(seccomp.denials(protected=protected, families=_socket_families(request)))
        rules = self._rules(request) if self.landlock_abi else None
        _drop_capabilities()
        syscalls.prctl(PR_SET_NO_NEW_PRIVS, 1)
        if rules:
            rules.apply()
        seccomp.apply(filters)

    def _rules(self, request: ExecutionRequest) -> Ruleset:
        rules = Ruleset(self.landlock_abi)
        closed = [Path(os.path.realpath(path)) for path in request.denied]
        for path in (*SYSTEM_PATHS, *self.python_paths):
            if os.path.exists(path):
                rules.allow_except(path, READ_AND_EXECUTE, closed)
        for readable in request.readable:
            rules.allow_except(readable, READ, closed)
        for folder in request.programs:
            rules.allow_except(folder, READ_AND_EXECUTE, closed)
        for device in filter(os.path.exists, DEVICES):
            rules.allow(device, DEVICE)
        if os.path.isdir(shared_memory.FOLDER):
            rules.allow(shared_memory.FOLDER, WRITE)
        for writable in (request.folder, *request.writable):
            rules.allow(writable, WRITE)
        if request.gpus:
            _allow_gpus(rules)
        if request.loopback and self.landlock_abi >= 4:
            rules.allow_ports((*LOOPBACK_PORTS, *_ephemeral_ports()))
        return rules


def _socket_families(request: ExecutionRequest) -> tuple[int, ...]:
    if request.loopback:
        return seccomp.AF_UNIX, seccomp.AF_INET, seccomp.AF_INET6
    return (seccomp.AF_UNIX,) if request.unix_sockets else ()


def python_paths() -> tuple[str, ...]:
    """The interpreter, its libraries and installed packages.

    No source tree of the search path: it may hold settings and secrets.
    """
    paths = sysconfig.get_paths()
    found = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *(paths[name] for name in ("stdlib", "purelib", "platlib")),
    ]
    found += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in found if os.path.realpath(path) != "/"))


def set_limits(request: ExecutionRequest, other_threads: int) -> None:
    """The kernel's limits.

    `other_threads`: those of this user that are not the program's.
    """
    limits = request.limits
    cpu_seconds = limits.cpu_seconds or limits.wall_seconds * (os.cpu_count() or 1)
    seconds = max(math.ceil(cpu_seconds), 1)
    _lower(resource.RLIMIT_CPU, seconds, seconds + CPU_LIMIT_MARGIN_SECONDS)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)
    # It counts threads, of which libraries start one for each CPU. The keeper counts processes.
    _lower(resource.RLIMIT_NPROC, other_threads + limits.processes + THREADS_PER_CPU * (os.cpu_count() or 1))
    if limits.address_space_bytes is not None and not request.gpus:
        _lower(resource.RLIMIT_AS, limits.address_space_bytes)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    """Never above the limit that holds already."""
    allowed = resource.getrlimit(kind)[1]
    wanted = hard if hard is not None else soft
    if allowed != resource.RLIM_INFINITY:
        wanted = min(wanted, allowed)
    resource.setrlimit(kind, (min(soft, wanted), wanted))


def _allow_gpus(rules: Ruleset) -> None:
    """Devices, their description, and thread names.

    cuInit writes /proc/<pid>/task/<tid>/comm. The separate user protects the files of other processes there.
    """
    for path in sorted({path for pattern in GPU_DEVICES for path in glob.glob(pattern)}):
        rules.allow(path, DEVICE)
    rules.allow("/proc", READ | FileRight.WRITE_FILE)
    rules.allow("/sys", READ)


def _ephemeral_ports() -> range:
    try:
        first, last = map(int, EPHEMERAL_PORTS_FILE.read_text().split())
    except (OSError, ValueError):
        first, last = 32_768, 60_999
    return range(first, last + 1)


def _drop_capabilities() -> None:
    """For a server that could not change its user: root without the powers of root."""
    if os.geteuid() != 0:
        return
    for capability in range(64):
        try:
            syscalls.prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # the kernel knows no more
    syscalls.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)  # _LINUX_CAPABILITY_VERSION_3, this process
    syscalls.call("capset", header, bytes(24))
