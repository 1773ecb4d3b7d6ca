"""Sends one batch until each line has a result, or ingest cannot be used.

Finds lines that ingest cannot accept by bisection. Holds no state, waits for nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pod_worker.outbox.backlog import SpooledLine
from pod_worker.outbox.ingest_client import (
    BatchAccepted,
    BatchRejected,
    LineRejection,
    Misconfigured,
    SendResult,
    Unavailable,
)

SUSPECT_LINES = 32  # how many lines are searched for a poison line at a time
SendFailure: TypeAlias = Unavailable | Misconfigured
Send: TypeAlias = Callable[[Sequence[SpooledLine]], SendResult]


@dataclass(slots=True)
class BatchResult:
    """The result of each line of a batch. `deferred` lines are to be sent again."""

    accepted: list[SpooledLine] = field(default_factory=list)
    deferred: list[SpooledLine] = field(default_factory=list)
    rejected: list[tuple[SpooledLine, LineRejection]] = field(default_factory=list)
    failure: SendFailure | None = None

    def record(self, result: BatchAccepted | SendFailure, lines: Sequence[SpooledLine]) -> None:
        """File each line of an answered request under its result."""
        if not isinstance(result, BatchAccepted):
            self.deferred += lines
            self.failure = result
            return
        for index, line in enumerate(lines):
            if index in result.rejected:
                self.rejected.append((line, result.rejected[index]))
            elif index in result.deferred:
                self.deferred.append(line)
            else:
                self.accepted.append(line)


def send_batch(send: Send, lines: list[SpooledLine]) -> BatchResult | None:
    """The result; None when a batch too large to be searched was rejected.

    The caller then sends less of it.
    """
    if len(lines) <= SUSPECT_LINES:
        return _bisect(send, lines)
    answer = send(lines)
    if isinstance(answer, BatchRejected):
        return None
    result = BatchResult()
    result.record(answer, lines)
    return result


def _bisect(send: Send, lines: list[SpooledLine]) -> BatchResult:
    """Halve every part that is rejected as a whole until it is single lines.

    A line counts as poison only when ingest rejects it again after accepting another one: a server that rejects
    everything is broken, and no event is given up for that.
    """
    result, suspects, has_accepted = BatchResult(), list[SpooledLine](), False
    parts = [lines]
    while parts and result.failure is None:
        part = parts.pop(0)
        answer = send(part)
        if not isinstance(answer, BatchRejected):
            has_accepted = has_accepted or isinstance(answer, BatchAccepted)
            result.record(answer, part)
        elif len(part) == 1:
            suspects += part
            last = answer.rejection
        else:
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
    result.deferred += [line for part in parts for line in part]
    if has_accepted and result.failure is None:
        _confirm_rejected(send, suspects, result)
    elif suspects:
        result.deferred += suspects
        result.failure = result.failure or Unavailable(
            f"ingest rejects everything ({last.error}); events are kept"
        )
    return result


def _confirm_rejected(send: Send, suspects: list[SpooledLine], result: BatchResult) -> None:
    while suspects and result.failure is None:
        line = suspects.pop(0)
        answer = send([line])
        if isinstance(answer, BatchRejected):
            result.rejected.append((line, answer.rejection))
        else:
            result.record(answer, [line])
    result.deferred += suspects
