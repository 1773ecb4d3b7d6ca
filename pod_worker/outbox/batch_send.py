"""A batch's exchange with ingest, until every line of it has a verdict of its own or the way is barred.

It finds poison by halving. It holds no state, waits for nothing and writes nothing.
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

SUSPECT_LINES = 32  # how many lines are searched for poison at a time
SendFailure: TypeAlias = Unavailable | Misconfigured
Send: TypeAlias = Callable[[Sequence[SpooledLine]], SendResult]


@dataclass(slots=True)
class BatchResult:
    """What became of a batch, line by line. `deferred` lines are to be sent again."""

    accepted: list[SpooledLine] = field(default_factory=list)
    deferred: list[SpooledLine] = field(default_factory=list)
    refused: list[tuple[SpooledLine, LineRejection]] = field(default_factory=list)
    trouble: SendFailure | None = None

    def sort(self, answer: BatchAccepted | SendFailure, lines: Sequence[SpooledLine]) -> None:
        """Put each line of an answered request where it belongs."""
        if not isinstance(answer, BatchAccepted):
            self.deferred += lines
            self.trouble = answer
            return
        for place, line in enumerate(lines):
            if place in answer.refused:
                self.refused.append((line, answer.refused[place]))
            elif place in answer.deferred:
                self.deferred.append(line)
            else:
                self.accepted.append(line)


def send_batch(send: Send, lines: list[SpooledLine]) -> BatchResult | None:
    """The outcome, or None when a batch too large to be searched was rejected as a whole: send less of it."""
    if len(lines) <= SUSPECT_LINES:
        return _bisect(send, lines)
    answer = send(lines)
    if isinstance(answer, BatchRejected):
        return None
    outcome = BatchResult()
    outcome.sort(answer, lines)
    return outcome


def _bisect(send: Send, lines: list[SpooledLine]) -> BatchResult:
    """Halve whatever is rejected as a whole until it is single lines.

    A line is only called poison when it is rejected again after ingest took something else: a server that
    rejects everything is broken, and no reason to give up a single event.
    """
    outcome, suspects, is_alive = BatchResult(), list[SpooledLine](), False
    parts = [lines]
    while parts and outcome.trouble is None:
        part = parts.pop(0)
        answer = send(part)
        if not isinstance(answer, BatchRejected):
            is_alive = is_alive or isinstance(answer, BatchAccepted)
            outcome.sort(answer, part)
        elif len(part) == 1:
            suspects += part
            last = answer.refusal
        else:
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
    outcome.deferred += [line for part in parts for line in part]
    if is_alive and outcome.trouble is None:
        _confirm_rejected(send, suspects, outcome)
    elif suspects:
        outcome.deferred += suspects
        outcome.trouble = outcome.trouble or Unavailable(
            f"ingest rejects everything ({last.error}); events are kept"
        )
    return outcome


def _confirm_rejected(send: Send, suspects: list[SpooledLine], outcome: BatchResult) -> None:
    while suspects and outcome.trouble is None:
        line = suspects.pop(0)
        answer = send([line])
        if isinstance(answer, BatchRejected):
            outcome.refused.append((line, answer.refusal))
        else:
            outcome.sort(answer, [line])
    outcome.deferred += suspects
