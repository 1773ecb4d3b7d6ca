"""Records of a TensorBoard event file: the TFRecord framing.

A record is the length (8 bytes, little endian), its checksum (4), the data, and the data's checksum (4). A
checksum is CRC-32C, rotated and shifted. Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cache

RECORD_BYTES = 4 * 1024 * 1024  # a longer one is skipped unread: an image or a graph
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MASK = 0xA282EAD8


class DamagedLengthError(ValueError):
    """The length of a record is wrong, so the next record cannot be found."""


@dataclass(frozen=True, slots=True)
class EventRecord:
    """`data` is empty for a record that is skipped; `end` is the offset behind it."""

    data: bytes
    checksum: int
    end: int

    def is_intact(self) -> bool:
        """Reads each byte in Python: worth it for the few bytes of a scalar."""
        return masked_crc(self.data) == self.checksum


def read_record(fd: int, offset: int, size: int) -> EventRecord | None:
    """The record at `offset` of a file with `size` bytes.

    None: it is not complete yet. Raises DamagedLengthError.
    """
    if size - offset < _HEADER.size:
        return None
    header = os.pread(fd, _HEADER.size, offset)
    if len(header) < _HEADER.size:
        return None
    length, checksum = _HEADER.unpack(header)
    if masked_crc(header[:8]) != checksum:
        raise DamagedLengthError
    begin = offset + _HEADER.size
    end = begin + length + _CHECKSUM.size
    if end > size:
        return None
    if length > RECORD_BYTES:
        return EventRecord(b"", masked_crc(b""), end)
    content = os.pread(fd, end - begin, begin)
    if len(content) < end - begin:
        return None  # shortened meanwhile
    return EventRecord(content[:length], _CHECKSUM.unpack(content[length:])[0], end)


def masked_crc(data: bytes) -> int:
    """The checksum that stands in the file."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    return tuple(map(_entry, range(256)))


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte
