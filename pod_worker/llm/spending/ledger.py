"""Every call of a language model, on disk: who asked, what it used, what it cost.

NDJSON, appended with fsync. A call is two rows, `reserve` before it is sent and `call` afterwards, so that a
process killed between them leaves a trace. Such a call counts as spent at its reserved price. Torn and damaged
lines are ignored and counted. One writer at a time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

import msgspec

from pod_worker.core.clock import Clock
from pod_worker.core.research.completion import TokenUsage

log = logging.getLogger(__name__)


class CallStatus(StrEnum):
    ANSWERED = "answered"
    REFUSED = "refused"  # the provider did not run the model: no cost
    UNKNOWN = "unknown"  # sent without an answer: counted at the reserved price
    CACHED = "cached"  # answered from the run's cache: no cost


class SessionRow(msgspec.Struct, tag="session", frozen=True):
    """A process opened the ledger."""

    session: int
    time: str
    seconds: float  # of a monotonic clock, to measure how long the session lasted
    prices: str = ""  # sha256 of the price list


class CallLabels(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call is for."""

    operation: str
    model: str
    provider: str
    key: str  # of the request, as in the response cache
    stage: str | None = None
    node_id: str | None = None


class ReserveRow(CallLabels, tag="reserve", frozen=True, kw_only=True, omit_defaults=True):
    """A request that is about to be sent, at the most that it can use."""

    session: int
    number: int  # within the session
    time: str
    seconds: float
    input_tokens: int
    output_tokens: int
    micro_usd: int | None  # None: the price is not known


class CallRow(CallLabels, tag="call", frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request: the row that totals are made of."""

    session: int
    number: int
    time: str
    seconds: float
    status: CallStatus
    call_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    micro_usd: int | None = 0
    detail: str = ""  # finish reason, or the failure's code

    @property
    def is_cached(self) -> bool:
        return self.status is CallStatus.CACHED


LedgerRow: TypeAlias = SessionRow | ReserveRow | CallRow
_DECODER = msgspec.json.Decoder(SessionRow | ReserveRow | CallRow)
_NO_USAGE = TokenUsage()


@dataclass(frozen=True, slots=True)
class Spending:
    """Sums over calls."""

    micro_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0  # that the model may have run for
    refused: int = 0
    from_cache: int = 0
    unpriced_calls: int = 0  # of `calls`: their cost is not known and not in micro_usd
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def plus(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, name) + getattr(other, name) for name in Spending.__slots__))


@dataclass(slots=True)
class LedgerState:
    """The rows folded: calls by operation, open reservations, time of each session."""

    by_operation: dict[str, Spending] = field(default_factory=dict)
    open: dict[tuple[int, int], ReserveRow] = field(default_factory=dict)
    sessions: dict[int, tuple[float, float]] = field(default_factory=dict)  # first and last moment of each
    damaged_lines: int = 0
    answered: set[str] = field(default_factory=set)  # keys of requests whose answer has a row

    @property
    def total(self) -> Spending:
        """Calls and, at their reserved price, reservations that were never settled."""
        total = Spending()
        for each in (*self.by_operation.values(), *map(reserved_spending, self.open.values())):
            total = total.plus(each)
        return total

    @property
    def seconds(self) -> float:
        return sum(last - first for first, last in self.sessions.values())

    def operations(self) -> dict[str, Spending]:
        """By operation, open reservations included."""
        sums = dict(self.by_operation)
        for row in self.open.values():
            sums[row.operation] = sums.get(row.operation, Spending()).plus(reserved_spending(row))
        return dict(sorted(sums.items()))

    def add(self, row: LedgerRow) -> None:
        first, last = self.sessions.get(row.session, (row.seconds, row.seconds))
        self.sessions[row.session] = (min(first, row.seconds), max(last, row.seconds))
        if isinstance(row, ReserveRow):
            self.open[row.session, row.number] = row
        elif isinstance(row, CallRow):
            self.open.pop((row.session, row.number), None)
            if row.status is CallStatus.ANSWERED:
                self.answered.add(row.key)
            known = self.by_operation.get(row.operation, Spending())
            self.by_operation[row.operation] = known.plus(call_spending(row))


def reserved_spending(row: ReserveRow) -> Spending:
    return Spending(
        micro_usd=row.micro_usd or 0,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        calls=1,
        unpriced_calls=int(row.micro_usd is None),
    )


def call_spending(row: CallRow) -> Spending:
    if row.status is CallStatus.CACHED:
        return Spending(from_cache=1)
    if row.status is CallStatus.REFUSED:
        return Spending(refused=1, seconds=row.call_seconds)
    return Spending(
        micro_usd=row.micro_usd or 0,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        calls=1,
        unpriced_calls=int(row.micro_usd is None),
        seconds=row.call_seconds,
    )


def read_rows(path: Path) -> Iterator[LedgerRow | None]:
    """Every row in order; None for a damaged line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.split(b"\n"):
        if line.strip():
            try:
                yield _DECODER.decode(line)
            except msgspec.MsgspecError:
                yield None


def read_ledger(path: Path) -> LedgerState:
    """The state of a ledger's file; an empty one where there is no file."""
    state = LedgerState()
    for row in read_rows(path):
        if row is None:
            state.damaged_lines += 1
        else:
            state.add(row)
    return state


class CallLedger:
    """Appends rows; each is on disk before the method returns.

    Safe for several threads.
    """

    def __init__(self, path: Path, clock: Clock, prices: str = "") -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._state = read_ledger(path)
        if self._state.damaged_lines:
            log.warning("%s: %d damaged lines ignored", path.name, self._state.damaged_lines)
        self._past_seconds = self._state.seconds
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._is_torn = self._ends_torn()
        self._opened = clock.monotonic()
        self._session = max(self._state.sessions, default=0) + 1
        self._count = 0
        self._append(SessionRow(self._session, self._now(), self._opened, prices))

    def reserve(self, labels: CallLabels, usage: TokenUsage, micro_usd: int | None) -> ReserveRow:
        """Record a request before it is sent."""
        with self._lock:
            self._count += 1
            row = ReserveRow(
                **msgspec.structs.asdict(labels),
                session=self._session,
                number=self._count,
                time=self._now(),
                seconds=self._clock.monotonic(),
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                micro_usd=micro_usd,
            )
            self._append(row)
        return row

    def settle(
        self,
        reserved: ReserveRow,
        status: CallStatus,
        usage: TokenUsage = _NO_USAGE,
        micro_usd: int | None = 0,
        *,
        call_seconds: float = 0.0,
        detail: str = "",
    ) -> None:
        """Record what became of a request."""
        labels = {name: getattr(reserved, name) for name in CallLabels.__struct_fields__}
        with self._lock:
            self._append(
                CallRow(
                    **labels,
                    session=reserved.session,
                    number=reserved.number,
                    time=self._now(),
                    seconds=self._clock.monotonic(),
                    status=status,
                    call_seconds=round(call_seconds, 3),
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    cached_tokens=usage.cached_tokens,
                    micro_usd=micro_usd,
                    detail=detail,
                )
            )

    def record_cached(self, labels: CallLabels) -> None:
        """A request that the cache answered."""
        with self._lock:
            self._count += 1
            self._append(
                CallRow(
                    **msgspec.structs.asdict(labels),
                    session=self._session,
                    number=self._count,
                    time=self._now(),
                    seconds=self._clock.monotonic(),
                    status=CallStatus.CACHED,
                )
            )

    def open_reservations(self) -> list[ReserveRow]:
        with self._lock:
            return list(self._state.open.values())

    def is_answered(self, key: str) -> bool:
        """Whether the answer to a request, which the cache may hold, is accounted for."""
        with self._lock:
            return key in self._state.answered

    def total(self) -> Spending:
        with self._lock:
            return self._state.total

    def operations(self) -> dict[str, Spending]:
        with self._lock:
            return self._state.operations()

    def elapsed_seconds(self) -> float:
        """Time of this session and, up to their last row, of the earlier ones."""
        return self._past_seconds + self._clock.monotonic() - self._opened

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _append(self, row: LedgerRow) -> None:
        line = msgspec.json.encode(row) + b"\n"
        # A full disk takes a part of a line. The next line must not continue it.
        line, self._is_torn = b"\n" * self._is_torn + line, True
        while line:
            line = line[os.write(self._fd, line) :]
        self._is_torn = False
        os.fsync(self._fd)
        self._state.add(row)

    def _ends_torn(self) -> bool:
        """Whether a crash has left half a line."""
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def _now(self) -> str:
        return self._clock.now().isoformat(timespec="milliseconds")
