"""Which user owns the other end of a loopback connection.

It is read from Linux's socket table.

A proxy on the same machine, and another person's program, usually run as another user. Their requests come from
loopback too, so the address alone does not say who is asking.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def peer_uid(client: tuple[str, int], server: tuple[str, int], tables: tuple[Path, ...] = TABLES) -> int | None:
    """The user id of the client's socket; None where the system does not say."""
    wanted = [_entry(*client), _entry(*server)]
    for local, remote, uid in _sockets(tables):
        if [local, remote] == wanted:
            return uid
    return None


def _sockets(tables: tuple[Path, ...]) -> Iterator[tuple[str, str, int]]:
    for table in tables:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            yield _plain(fields[1]), _plain(fields[2]), int(fields[7])


def _entry(host: str, port: int) -> str:
    """An address as the table writes it: 32-bit words in the machine's byte order."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    packed = address.packed
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


_MAPPED = "0" * 16 + f"{int.from_bytes(bytes([0, 0, 255, 255]), sys.byteorder):08X}"


def _plain(entry: str) -> str:
    """An IPv4-mapped IPv6 entry as its IPv4 entry."""
    return entry.removeprefix(_MAPPED) if len(entry) > 20 else entry
