"""The decisions of the filter, by an interpreter of its instructions, on both architectures."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from pod_worker.sandbox.kernel import seccomp, syscalls

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
PROTECTED = (4321, 77)
MACHINES = ("x86_64", "aarch64")


def decide(
    program: Sequence[seccomp.Instruction], machine: str, number: int, arguments: Sequence[int] = ()
) -> int:
    """What the kernel would return: bpf_prog_run on struct seccomp_data."""
    words = {0: number, 4: ARCHITECTURE.get(machine, 0x40000003)}
    for index, value in enumerate([*arguments, *[0] * 6][:6]):
        words[16 + 8 * index] = value & 0xFFFFFFFF
        words[20 + 8 * index] = value >> 32 & 0xFFFFFFFF
    accumulator, position = 0, 0
    while True:
        code, jump_true, jump_false, value = program[position]
        position += 1
        if code == 0x20:
            accumulator = words[value]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            position += jump_true if holds else jump_false


def verdict(machine: str, call: str, *arguments: int, families: Sequence[int] = ()) -> int:
    """0 for an allowed call, or its error."""
    program = seccomp.assemble(seccomp.denials(protected=PROTECTED, families=families), machine)
    number = syscalls.number(call, machine)
    assert number is not None
    found = decide(program, machine, number, arguments)
    assert found == ALLOW or found & 0xFFFF0000 == ERRNO
    return 0 if found == ALLOW else found & 0xFFFF


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", [*seccomp.FORBIDDEN, *seccomp.NETWORK])
def test_forbidden_calls_are_refused(machine: str, call: str) -> None:
    if syscalls.number(call, machine) is not None:
        assert verdict(machine, call, 1, 1, 1) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone", (0x11,), 0),
        ("clone", (0x3D0F00,), 0),  # a thread
        ("clone", (0x10000000 | 17,), errno.EPERM),
        ("clone", (0x40000000 | 17,), errno.EPERM),
        ("clone3", (0, 88), errno.ENOSYS),
        ("kill", (1000, 9), 0),
        ("kill", (0, 9), 0),
        ("kill", (4321, 9), errno.EPERM),
        ("kill", (77, 0), errno.EPERM),
        ("kill", (2**64 - 77, 9), errno.EPERM),
        ("kill", (2**32 - 4321, 9), errno.EPERM),
        ("kill", (2**64 - 1, 9), errno.EPERM),
        ("tgkill", (4321, 4321, 9), errno.EPERM),
        ("tgkill", (99, 4321, 9), 0),
        ("rt_sigqueueinfo", (77, 9, 1), errno.EPERM),
        ("rt_tgsigqueueinfo", (77, 77, 9, 1), errno.EPERM),
        ("fcntl", (3, 8, 77), errno.EPERM),
        ("fcntl", (3, 3, 0), 0),
        ("ioctl", (0, 0x5412, 0), errno.EPERM),
        ("ioctl", (0, 0x5401, 0), 0),
        ("prlimit64", (0, 7, 1, 0), 0),
        ("prlimit64", (77, 7, 0, 1), 0),
        ("prlimit64", (77, 7, 1, 0), errno.EPERM),
        ("prlimit64", (77, 7, 2**40, 0), errno.EPERM),
        ("sched_setscheduler", (0, 0, 1), 0),
        ("sched_setscheduler", (77, 0, 1), errno.EPERM),
        ("setpriority", (0, 77, 19), errno.EPERM),
        ("prctl", (4, 0), errno.EPERM),
        ("prctl", (15, 0), 0),
        ("socketpair", (1, 1, 0), 0),
        ("socketpair", (1, 0x80801, 0), 0),
        ("socketpair", (1, 2, 0), errno.EPERM),
        ("socketpair", (1, 0x80002, 0), errno.EPERM),
        ("socketpair", (2, 1, 0), errno.EPERM),
        ("sendto", (3, 1, 1, 0, 0, 0), 0),
        ("sendto", (3, 1, 1, 0, 1, 16), errno.EPERM),
        ("sendto", (3, 1, 1, 0, 2**40, 16), errno.EPERM),
    ],
)
def test_arguments_decide(machine: str, call: str, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, call, *arguments) == expected


@pytest.mark.parametrize(
    ("families", "arguments", "expected"),
    [
        ((1,), (1, 1, 0), 0),
        ((1,), (1, 0x80001, 0), 0),
        ((1,), (1, 5, 0), 0),
        ((1,), (1, 2, 0), errno.EPERM),
        ((1,), (2, 1, 0), errno.EPERM),
        ((1, 2, 10), (2, 1, 0), 0),
        ((1, 2, 10), (10, 1, 0), 0),
        ((1, 2, 10), (2, 2, 17), errno.EPERM),
        ((1, 2, 10), (2, 3, 1), errno.EPERM),
        ((1, 2, 10), (16, 1, 0), errno.EPERM),
        ((1, 2, 10), (40, 1, 0), errno.EPERM),
    ],
)
def test_sockets_of_a_profile(families: tuple[int, ...], arguments: tuple[int, ...], expected: int) -> None:
    assert verdict("x86_64", "socket", *arguments, families=families) == expected
    assert verdict("x86_64", "connect", 3, 1, 16, families=families) == 0


@pytest.mark.parametrize("call", [9, 59, 319, 101000])  # mmap, execve, memfd_create, one that does not exist
def test_other_calls_are_allowed(call: int) -> None:
    program = seccomp.assemble(seccomp.denials(protected=PROTECTED), "x86_64")
    assert decide(program, "x86_64", call) == ALLOW


def test_another_architecture_ends_the_process() -> None:
    program = seccomp.assemble(seccomp.denials(protected=PROTECTED), "x86_64")
    assert decide(program, "i386", 20) == KILL


def test_x32_numbers_do_not_exist() -> None:
    program = seccomp.assemble(seccomp.denials(protected=PROTECTED), "x86_64")
    assert decide(program, "x86_64", 0x40000000 | 41) == ERRNO | errno.ENOSYS


def test_a_jump_that_does_not_fit_is_refused() -> None:
    many = [seccomp.Denial("kill", (seccomp.ArgumentTest(0, "==", pid),)) for pid in range(100)]
    with pytest.raises(ValueError, match="split the denials"):
        seccomp.assemble(many, "x86_64")
