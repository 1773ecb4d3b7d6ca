"""A seccomp filter: the system calls of a program and their arguments.

Classic BPF, assembled here. Source: linux/seccomp.h, linux/bpf_common.h, Documentation/userspace-api/
seccomp_filter.rst. A filter sees numbers and no memory: it can refuse a family of sockets, not an address. So by
default there are no sockets but pairs of connected stream sockets.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pod_worker.sandbox.kernel import syscalls

_SET_MODE_FILTER = 1
_LOAD_WORD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_EQUAL, _GREATER_EQUAL, _ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|JEQ|K, JGE|K, JSET|K
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NR_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16  # in struct seccomp_data
_WORD = 0xFFFFFFFF

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, _SOCKET_TYPE = 1, 2, 5, 0xF
_CLONE_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_PR_SET_DUMPABLE = 4
_F_SETOWN, _F_SETOWN_EX = 8, 15
_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x8901, 0x8902, 0x5412, 0x541C

# Other processes' memory, the kernel, namespaces, the clock, and objects that would outlive the program.
FORBIDDEN = (
    "acct", "add_key", "adjtimex", "bpf", "chroot", "clock_adjtime", "clock_settime", "delete_module",
    "fanotify_init", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick", "init_module", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "lookup_dcookie", "memfd_secret", "migrate_pages", "modify_ldt", "mount", "mount_setattr", "move_mount",
    "move_pages", "mq_open", "msgget", "name_to_handle_at", "open_by_handle_at", "open_tree", "perf_event_open",
    "pidfd_getfd", "pidfd_send_signal", "pivot_root", "process_madvise", "process_vm_readv", "process_vm_writev",
    "ptrace", "quotactl", "quotactl_fd", "reboot", "request_key", "semget", "setdomainname", "sethostname",
    "setns", "settimeofday", "shmget", "swapoff", "swapon", "syslog", "tkill", "umount2", "unshare", "uselib",
    "userfaultfd", "vhangup",
)  # fmt: skip
NETWORK = ("accept", "accept4", "bind", "connect", "listen", "socket")


@dataclass(frozen=True, slots=True)
class ArgumentTest:
    """A comparison of the low 32 bits of an argument.

    The kernel reads no more of an int.
    """

    argument: int
    operator: str  # == | != | & (any bit set)
    value: int
    mask: int = _WORD
    high: bool = False  # of the high 32 bits instead, for pointers


@dataclass(frozen=True, slots=True)
class Denial:
    """The call is refused with `code` when every test holds; no test: always."""

    call: str
    tests: tuple[ArgumentTest, ...] = ()
    code: int = errno.EPERM


Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value


def denials(*, protected: Sequence[int], families: Sequence[int] = ()) -> list[Denial]:
    """The refusals for a program.

    `protected`: processes of the same user that it must not signal. The scope of Landlock says the same where the
    kernel has ABI 6. `families`: of stream sockets that it may open and connect.
    """
    found = [Denial(name) for name in FORBIDDEN]
    found += _about_processes(protected)
    found += _stream_sockets(families) if families else [Denial(name) for name in NETWORK]
    # A pair of datagram sockets could be connected to another socket, or send to one.
    found += [
        Denial("socketpair", (ArgumentTest(0, "!=", AF_UNIX),)),
        Denial("socketpair", (ArgumentTest(1, "==", SOCK_DGRAM, _SOCKET_TYPE),)),
        Denial("sendto", (ArgumentTest(4, "!=", 0),)),
        Denial("sendto", (ArgumentTest(4, "!=", 0, high=True),)),
    ]
    return found


def _about_processes(protected: Sequence[int]) -> Iterator[Denial]:
    # clone3 has its flags in memory; without it, libraries use clone.
    yield Denial("clone3", code=errno.ENOSYS)
    yield Denial("clone", (ArgumentTest(0, "&", _CLONE_NAMESPACES),))
    yield Denial("kill", (ArgumentTest(0, "==", _WORD),))  # -1: every process of the user
    for pid in protected:
        yield Denial("kill", (ArgumentTest(0, "==", pid),))
        yield Denial("kill", (ArgumentTest(0, "==", -pid & _WORD),))
        yield from (
            Denial(name, (ArgumentTest(0, "==", pid),))
            for name in ("tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
        )
    # The signal of a descriptor's owner, and the limits and priority of another process.
    yield from (Denial("fcntl", (ArgumentTest(1, "==", command),)) for command in (_F_SETOWN, _F_SETOWN_EX))
    for command in (_FIOSETOWN, _SIOCSPGRP, _TIOCSTI, _TIOCLINUX):
        yield Denial("ioctl", (ArgumentTest(1, "==", command),))
    yield Denial("prlimit64", (ArgumentTest(0, "!=", 0), ArgumentTest(2, "!=", 0)))
    yield Denial("prlimit64", (ArgumentTest(0, "!=", 0), ArgumentTest(2, "!=", 0, high=True)))
    yield from (
        Denial(name, (ArgumentTest(0, "!=", 0),))
        for name in ("sched_setattr", "sched_setparam", "sched_setscheduler")
    )
    yield Denial("setpriority", (ArgumentTest(1, "!=", 0),))
    # The keeper measures the program through files that a process without this flag would close.
    yield Denial("prctl", (ArgumentTest(0, "==", _PR_SET_DUMPABLE),))


def _stream_sockets(families: Sequence[int]) -> Iterator[Denial]:
    """Stream sockets of these families; no datagrams, so no DNS."""
    yield Denial("socket", tuple(ArgumentTest(0, "!=", family) for family in families))
    kinds = (SOCK_STREAM, SOCK_SEQPACKET)
    yield Denial("socket", tuple(ArgumentTest(1, "!=", kind, _SOCKET_TYPE) for kind in kinds))


def assemble(refusals: Sequence[Denial], machine: str | None = None) -> list[Instruction]:
    """The filter program; a system call that no denial names is allowed."""
    machine = machine or syscalls.machine()
    program: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),  # a program of another architecture has other numbers
        (_LOAD_WORD, 0, 0, _NR_OFFSET),
    ]
    if machine == "x86_64":
        program += [(_GREATER_EQUAL, 0, 1, _X32_BIT), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    grouped: dict[str, list[Denial]] = {}
    for each in refusals:
        grouped.setdefault(each.call, []).append(each)
    for name, group in grouped.items():
        number = syscalls.number(name, machine)
        if number is not None:
            body = [instruction for denial in group for instruction in _body(denial)]
            body.append((_RETURN, 0, 0, _ALLOW))
            program.append((_EQUAL, 0, _short(len(body)), number))
            program += body
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _body(denial: Denial) -> list[Instruction]:
    """Return the error when all tests hold; else continue after these instructions."""
    body: list[Instruction] = [(_RETURN, 0, 0, _ERRNO | denial.code)]
    for test in reversed(denial.tests):
        skipped = _short(len(body))
        holds, fails = (0, skipped) if test.operator in ("==", "&") else (skipped, 0)
        compare = (_ANY_BIT if test.operator == "&" else _EQUAL, holds, fails, test.value & _WORD)
        load = (_LOAD_WORD, 0, 0, _ARGUMENTS_OFFSET + 8 * test.argument + (4 if test.high else 0))
        masked = [(_AND, 0, 0, test.mask)] if test.mask != _WORD else []
        body = [load, *masked, compare, *body]
    return body


def _short(distance: int) -> int:
    if distance > 255:
        raise ValueError(
            f"a jump of {distance} instructions does not fit into a byte; split the denials of one call"
        )
    return distance


def apply(program: Sequence[Instruction]) -> None:
    """Filter this thread and everything that it starts. Needs PR_SET_NO_NEW_PRIVS.

    Raises OSError where the kernel has no filters.
    """
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(packed, len(packed))
    header = _Program(len(program), ctypes.addressof(instructions))
    syscalls.call("seccomp", ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(0), ctypes.byref(header))


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
