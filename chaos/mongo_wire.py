"""Just enough of MongoDB's wire protocol to keep a driver behind a proxy.

A replica set tells its clients where its members listen, and drivers go there, past any proxy. `Rewriter` puts
other addresses into the answers of `hello`, so that each pod discovers the set behind its own three proxies: real
discovery, real failover, and faults on one pod's path only. Everything else passes byte for byte.
Source: MongoDB wire protocol (OP_REPLY, OP_MSG) and the Server Discovery and Monitoring specification.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")  # length, request id, response to, opcode
_OP_REPLY, _OP_MSG = 1, 2013
_REPLY_PREFIX = 16 + 20  # flags, cursor id, starting from, number returned
_MSG_PREFIX = 16 + 4 + 1  # flag bits, kind of the first section
_CHECKSUM_PRESENT = 1
_LISTS, _SINGLES = ("hosts", "passives", "arbiters"), ("me", "primary")
_SIGN = b"setName\x00"


class Frames:
    """Whole messages out of a byte stream."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._rest += data
        while len(self._rest) >= 4:
            length = int.from_bytes(self._rest[:4], "little")
            if length < 16 or len(self._rest) < length:
                return
            yield bytes(self._rest[:length])
            del self._rest[:length]


class Rewriter:
    """Replaces members' addresses by the keys of `mapping` in every answer that lists them."""

    def __init__(self, mapping: Mapping[str, str]) -> None:
        self._mapping = dict(mapping)

    def rewrite(self, message: bytes) -> bytes:
        if _SIGN not in message:
            return message
        length, request_id, response_to, opcode = _HEADER.unpack_from(message)
        if opcode == _OP_MSG and message[20] == 0:
            flags = int.from_bytes(message[16:20], "little")
            end = length - 4 if flags & _CHECKSUM_PRESENT else length
            prefix = (flags & ~_CHECKSUM_PRESENT).to_bytes(4, "little") + message[20:21]
            body = self._replace(message[_MSG_PREFIX:end])
        elif opcode == _OP_REPLY:
            prefix, body = message[16:_REPLY_PREFIX], self._replace(message[_REPLY_PREFIX:])
        else:
            return message
        return _HEADER.pack(16 + len(prefix) + len(body), request_id, response_to, opcode) + prefix + body

    def _replace(self, body: bytes) -> bytes:
        document: dict[str, Any] = bson.decode(body)
        for name in _LISTS:
            if isinstance(document.get(name), list):
                document[name] = [self._mapping.get(host, host) for host in document[name]]
        for name in _SINGLES:
            if name in document:
                document[name] = self._mapping.get(document[name], document[name])
        return bson.encode(document)
