"""Known secrets out of a stream of bytes, also where a read cuts one in two."""

from __future__ import annotations

from pod_worker.core.credentials.secret import Redactor


class OutputMask:
    """Holds back the end of the output while it may be the beginning of a secret."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What of the output so far can be shown."""
        if not self._redactor:
            return chunk
        data = self._held + chunk
        cut = self._safe_end(data)
        self._held = data[cut:]
        return self._redactor.redact_bytes(data[:cut])

    def rest(self) -> bytes:
        """What was held back, when nothing follows."""
        held, self._held = self._held, b""
        return self._redactor.redact_bytes(held)

    def _safe_end(self, data: bytes) -> int:
        """Where no secret begins before and ends behind.

        A secret with several lines is masked line by line.
        """
        line_end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        cut = max(len(data) - self._redactor.longest_bytes + 1, 0)
        if cut <= line_end:
            return line_end
        # From the line's beginning, as one read would: secrets that overlap are found from the left.
        for start, end in self._redactor.find(data, line_end):
            if start < cut < end:
                return start
        return cut
