"""Landlock: file, TCP and signal rules that a process puts on itself for good.

Three system calls, no privilege. Source: linux/landlock.h and Documentation/userspace-api/landlock.rst. The rights
that exist depend on the kernel's ABI version; `abi_version` asks the kernel. Landlock has no rule that takes a
right back: a path that must stay closed below an open one is left out, its siblings are added one by one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Collection
from enum import IntFlag
from pathlib import Path

from pod_worker.sandbox.kernel import syscalls

_CREATE_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2
_ENTRIES_LIMIT = 100_000  # of the folders on the way to closed paths


class FileRight(IntFlag):
    """LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5


class TcpRight(IntFlag):
    """LANDLOCK_ACCESS_NET_*, ABI 4."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scope(IntFlag):
    """LANDLOCK_SCOPE_*, ABI 6."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


READ = FileRight.READ_FILE | FileRight.READ_DIR
READ_AND_EXECUTE = READ | FileRight.EXECUTE
# Everything but device nodes.
WRITE = (
    READ_AND_EXECUTE
    | FileRight.WRITE_FILE
    | FileRight.REMOVE_DIR
    | FileRight.REMOVE_FILE
    | FileRight.MAKE_DIR
    | FileRight.MAKE_REG
    | FileRight.MAKE_SOCK
    | FileRight.MAKE_FIFO
    | FileRight.MAKE_SYM
    | FileRight.REFER
    | FileRight.TRUNCATE
)
DEVICE = FileRight.READ_FILE | FileRight.WRITE_FILE | FileRight.IOCTL_DEV | FileRight.TRUNCATE
# The rights that the kernel accepts for something that is no folder.
_OF_FILES = DEVICE | FileRight.EXECUTE


def abi_version() -> int:
    """The kernel's Landlock version; 0 where the kernel has none or refuses it."""
    try:
        return syscalls.call("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_VERSION))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def known_file_rights(abi: int) -> FileRight:
    last = {1: FileRight.MAKE_SYM, 2: FileRight.REFER, 3: FileRight.TRUNCATE, 4: FileRight.TRUNCATE}
    return FileRight((last.get(abi, FileRight.IOCTL_DEV) << 1) - 1)


class _RulesetAttributes(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


class _NetPort(ctypes.Structure):
    _fields_ = [("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64)]


def _attributes_size(abi: int) -> int:
    """The kernel refuses fields that it does not know."""
    return 8 if abi < 4 else 16 if abi < 6 else 24


class Ruleset:
    """Rules for the calling process; whatever no rule allows is denied.

    Every method raises OSError: a rule that cannot be made must end the start, or less would be allowed than was
    asked for and the kernel's answer would name a wrong cause.
    """

    def __init__(
        self, abi: int, *, tcp: bool = True, scopes: Scope = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL
    ) -> None:
        """`tcp`: deny TCP (ABI 4) but for `allow_ports`. `scopes` need ABI 6."""
        self._rights = known_file_rights(abi)
        attributes = _RulesetAttributes(
            self._rights,
            TcpRight.BIND | TcpRight.CONNECT if tcp and abi >= 4 else 0,
            scopes if abi >= 6 else 0,
        )
        self._fd = syscalls.call(
            "landlock_create_ruleset",
            ctypes.byref(attributes),
            ctypes.c_size_t(_attributes_size(abi)),
            ctypes.c_uint32(0),
        )

    def allow(self, path: str | Path, rights: FileRight) -> None:
        """These rights for the path and everything below it; links are followed."""
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
            granted = rights & self._rights if is_folder else rights & self._rights & _OF_FILES
            rule = _PathBeneath(granted, fd)
            self._add(_RULE_PATH_BENEATH, rule)
        finally:
            os.close(fd)

    def allow_except(self, path: str | Path, rights: FileRight, closed: Collection[Path]) -> None:
        """`allow`, but the contents of `closed` stay unreadable.

        Both are resolved first. The names in a folder on the way stay visible, so that imports work. What is
        created there later is not readable.
        """
        root = Path(os.path.realpath(path))
        within = [each for each in closed if each.is_relative_to(root)]
        if any(root.is_relative_to(each) for each in closed):
            return
        if not within:
            self.allow(root, rights)
            return
        if FileRight.READ_DIR in rights:
            self.allow(root, FileRight.READ_DIR)
        with os.scandir(root) as entries:
            found = list(entries)
        if len(found) > _ENTRIES_LIMIT:
            raise OSError(errno.E2BIG, f"{root} has more than {_ENTRIES_LIMIT} entries beside a closed path")
        for entry in found:
            # A link leads to something that is below an open path, or that was closed without the link as well.
            if not entry.is_symlink():
                self.allow_except(entry.path, rights, within)

    def allow_ports(self, ports: Collection[int]) -> None:
        """TCP to and from these ports, of any address (ABI 4)."""
        for port in ports:
            self._add(_RULE_NET_PORT, _NetPort(TcpRight.BIND | TcpRight.CONNECT, port))

    def apply(self) -> None:
        """Restrict this thread and everything that it starts. Needs PR_SET_NO_NEW_PRIVS."""
        syscalls.call("landlock_restrict_self", ctypes.c_int(self._fd), ctypes.c_uint32(0))
        os.close(self._fd)

    def _add(self, kind: int, rule: ctypes.Structure) -> None:
        syscalls.call(
            "landlock_add_rule", ctypes.c_int(self._fd), ctypes.c_int(kind), ctypes.byref(rule), ctypes.c_uint32(0)
        )
