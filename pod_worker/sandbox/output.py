"""The bounded output of a program: the beginning, a note of what was cut, the end."""

from __future__ import annotations


class BoundedOutput:
    """Keeps at most `limit` bytes, half of them from the end."""

    def __init__(self, limit: int) -> None:
        self._head_limit = max(limit // 2, 1)
        self._tail_limit = max(limit - self._head_limit, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.bytes = 0  # of everything that was written

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit:
            del self._tail[: -self._tail_limit]

    def text(self) -> str:
        tail = bytes(self._tail[-self._tail_limit :])
        cut = self.bytes - len(self._head) - len(tail)
        note = f"\n[{cut} bytes cut]\n".encode() if cut else b""
        return (
            (bytes(self._head) + note + tail).decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        )
