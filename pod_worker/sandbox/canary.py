"""A program that tries to leave the sandbox.

`layers` executes it like any other program.

It prints one JSON object for each attempt. Standard library only, nothing of this package.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NUMBERS = {  # ptrace, process_vm_readv, io_uring_setup
    "x86_64": (101, 310, 425),
    "aarch64": (117, 270, 425),
}
PTRACE_SEIZE = 0x4206
AF_VSOCK, AF_NETLINK, AF_PACKET = 40, 16, 17
HOLD_SECONDS = 10.0


def system_call(number: int, *arguments: object) -> None:
    if LIBC.syscall(ctypes.c_long(number), *arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def attempt(layer: str, name: str, action: Callable[[], object]) -> None:
    try:
        detail, is_denied = str(action()), False
    except OSError as error:
        detail, is_denied = error.strerror or str(error), True
    report(layer, name, is_denied, detail)


def report(layer: str, name: str, is_denied: bool, detail: str) -> None:
    print(json.dumps({"layer": layer, "name": name, "is_denied": is_denied, "detail": detail[:200]}), flush=True)


def connect(family: int, address: object) -> None:
    with socket.socket(family) as connection:
        connection.connect(address)  # type: ignore[arg-type]


def send_datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.sendto(b"x", ("127.0.0.1", port))


def try_files(outside: Path) -> None:
    attempt("files", "write outside", lambda: (outside / "written").write_text("x"))
    attempt("files", "overwrite outside", lambda: (outside / "readable").write_text("x"))
    attempt("files", "read outside", lambda: (outside / "readable").read_text())
    attempt("files", "read by another name", lambda: Path(f"/proc/self/root{outside}/readable").read_text())
    attempt("files", "truncate outside", lambda: os.truncate(outside / "readable", 0))
    attempt("files", "link outside", lambda: os.link(outside / "readable", "linked"))


def try_network(port: int, path: str, io_uring_setup: int) -> None:
    attempt("network", "TCP", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
    attempt("network", "UDP", lambda: send_datagram(port))
    attempt("network", "UNIX socket", lambda: connect(socket.AF_UNIX, path))
    attempt("network", "abstract UNIX socket", lambda: connect(socket.AF_UNIX, f"\0{path}"))
    for name, family in (("vsock", AF_VSOCK), ("netlink", AF_NETLINK), ("packet", AF_PACKET)):
        attempt("network", name, lambda family=family: socket.socket(family, socket.SOCK_RAW))  # type: ignore[misc]
    attempt("network", "datagram pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    buffer = ctypes.create_string_buffer(256)
    attempt("network", "io_uring", lambda: system_call(io_uring_setup, ctypes.c_uint(4), buffer))


def try_processes(pids: list[int], ptrace: int, process_vm_readv: int) -> None:
    for pid in pids:
        try_process(pid, ptrace, process_vm_readv)
    attempt("signals", "signal everything", lambda: os.kill(-1, 0))


def try_process(pid: int, ptrace: int, process_vm_readv: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    target, one, zero = ctypes.c_long(pid), ctypes.c_ulong(1), ctypes.c_ulong(0)
    attempt("inspection", f"environment of {pid}", lambda: Path(f"/proc/{pid}/environ").read_bytes())
    attempt("inspection", f"memory of {pid}", lambda: open(f"/proc/{pid}/mem", "rb").close())
    attempt("inspection", f"ptrace {pid}", lambda: system_call(ptrace, PTRACE_SEIZE, target, None, None))
    attempt(
        "inspection",
        f"process_vm_readv {pid}",
        lambda: system_call(process_vm_readv, target, vector, one, vector, one, zero),
    )
    attempt("signals", f"signal {pid}", lambda: os.kill(pid, signal.SIGCONT))


def leave_orphan() -> None:
    """A process in a session of its own whose parent is gone, deaf to polite signals."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.write(writer, b"%d" % os.getpid())
            time.sleep(600)
        os._exit(0)
    os.wait()
    Path("orphans").write_bytes(os.read(reader, 32))
    report("processes", "orphan", True, "left behind")


def write_large_file() -> None:
    with open("large", "wb", buffering=0) as file:
        for _ in range(4):
            file.write(bytes(2**20))


def fork_many(count: int) -> None:
    """Raises OSError where the kernel limits processes; else the keeper must end us."""
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    time.sleep(HOLD_SECONDS)


def main() -> None:
    environment = os.environ
    ptrace, process_vm_readv, io_uring_setup = NUMBERS[platform.machine()]
    outside = Path(environment["CANARY_OUTSIDE"])
    try_files(outside)
    try_network(int(environment["CANARY_PORT"]), environment["CANARY_SOCKET"], io_uring_setup)
    try_processes([os.getppid(), *map(int, environment["CANARY_PIDS"].split(","))], ptrace, process_vm_readv)
    report("uid", "user", os.geteuid() not in (0, int(environment["CANARY_UID"])), f"user {os.geteuid()}")
    leave_orphan()
    attempt("limits", "large file", write_large_file)
    sys.stdout.flush()
    report("limits", "processes are tried", True, "")
    attempt("limits", "processes", lambda: fork_many(int(environment["CANARY_PROCESSES"])))


if __name__ == "__main__":
    main()
