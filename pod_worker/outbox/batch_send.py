"""A batch's exchange with ingest, until every line of it has a verdict of its own or the way is barred.

It finds poison by halving. It holds no state, waits for nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pod_worker.outbox.backlog import Line
from pod_worker.outbox.ingest_client import Answer, Misconfigured, Refusal, Rejected, Taken, Unavailable

SUSPECT_LINES = 32  # how many lines are searched for poison at a time
Trouble: TypeAlias = Unavailable | Misconfigured
Send: TypeAlias = Callable[[Sequence[Line]], Answer]


@dataclass(slots=True)
class Outcome:
    """What became of a batch, line by line. `put_off` lines are to be sent again."""

    taken: list[Line] = field(default_factory=list)
    put_off: list[Line] = field(default_factory=list)
    refused: list[tuple[Line, Refusal]] = field(default_factory=list)
    trouble: Trouble | None = None

    def sort(self, answer: Taken | Trouble, lines: Sequence[Line]) -> None:
        """Put each line of an answered request where it belongs."""
        if not isinstance(answer, Taken):
            self.put_off += lines
            self.trouble = answer
            return
        for place, line in enumerate(lines):
            if place in answer.refused:
                self.refused.append((line, answer.refused[place]))
            elif place in answer.put_off:
                self.put_off.append(line)
            else:
                self.taken.append(line)


def exchange(send: Send, lines: list[Line]) -> Outcome | None:
    """The outcome, or None when a batch too large to be searched was rejected as a whole: send less of it."""
    if len(lines) <= SUSPECT_LINES:
        return _search(send, lines)
    answer = send(lines)
    if isinstance(answer, Rejected):
        return None
    outcome = Outcome()
    outcome.sort(answer, lines)
    return outcome


def _search(send: Send, lines: list[Line]) -> Outcome:
    """Halve whatever is rejected as a whole until it is single lines.

    A line is only called poison when it is rejected again after ingest took something else: a server that
    rejects everything is broken, and no reason to give up a single event.
    """
    outcome, suspects, is_alive = Outcome(), list[Line](), False
    parts = [lines]
    while parts and outcome.trouble is None:
        part = parts.pop(0)
        answer = send(part)
        if not isinstance(answer, Rejected):
            is_alive = is_alive or isinstance(answer, Taken)
            outcome.sort(answer, part)
        elif len(part) == 1:
            suspects += part
            last = answer.refusal
        else:
            middle = len(part) // 2
            parts += [part[:middle], part[middle:]]
    outcome.put_off += [line for part in parts for line in part]
    if is_alive and outcome.trouble is None:
        _confirm(send, suspects, outcome)
    elif suspects:
        outcome.put_off += suspects
        outcome.trouble = outcome.trouble or Unavailable(
            f"ingest rejects everything ({last.error}); events are kept"
        )
    return outcome


def _confirm(send: Send, suspects: list[Line], outcome: Outcome) -> None:
    while suspects and outcome.trouble is None:
        line = suspects.pop(0)
        answer = send([line])
        if isinstance(answer, Rejected):
            outcome.refused.append((line, answer.refusal))
        else:
            outcome.sort(answer, [line])
    outcome.put_off += suspects
