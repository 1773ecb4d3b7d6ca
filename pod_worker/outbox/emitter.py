"""Emitters turn a payload into the final CloudEvents line, on disk at once.

It uses no network.

The line goes over the wire byte for byte; the constant part of the envelope is encoded once. A warning in the
run's log replaces a metric, log or progress event that cannot be encoded, because telemetry must not end a run.
A fact that cannot be encoded raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pod_worker.core.clock import Clock
from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.event import SPEC_VERSION
from pod_worker.core.payload import Payload, RunLog
from pod_worker.outbox.event_encoding import LINE_LIMIT_BYTES, EncodingError, encode_data, replacement_log
from pod_worker.outbox.redaction import redact_data
from pod_worker.outbox.segment_files import FACTS, SAMPLES
from pod_worker.outbox.spool import Spool, pod_stream, run_stream
from pod_worker.outbox.spool_eviction import DroppedSamples

_json = msgspec.json.Encoder().encode
_BEFORE = b'{"specversion":%b,' % _json(SPEC_VERSION)


class _Envelope(msgspec.Struct):
    source: str
    subject: str
    attempt: int | None = None


class Emitter:
    """Emits events of one subject into one stream.

    Threads and processes may each have one of their own.
    """

    def __init__(
        self,
        spool: Spool,
        stream: str,
        source: str,
        subject: str,
        clock: Clock,
        new_id: Callable[[], str],
        attempt: int | None = None,
        traceparent: str | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        kind, _, name = subject.partition("/")
        self._spool, self._stream = spool, spool.stream(stream)
        self._clock, self._new_id = clock, new_id
        self._redactor = redactor or None  # one without secrets costs nothing
        self._has_seq = attempt is not None
        self._reported_drops = 0
        constant: dict[str, object] = {
            "source": source,
            "subject": subject,
            "datacontenttype": "application/json",
            "attempt": attempt,
            "traceparent": traceparent,
        }
        sent = {key: value for key, value in constant.items() if value is not None}
        self._constant = _json(sent)[1:-1]
        self._data_start = b'{"run_id":%b' % _json(name) if kind == "run" else b"{"

    def emit(self, payload: Payload) -> str:
        """Record one event and return its id; it survives this process's death.

        Raises ValueError naming the field when a fact cannot be encoded, OSError when a fact finds no disk at
        all. Samples (Payload.sample) raise neither.
        """
        try:
            data = self._encoded(payload)
        except ValueError as problem:
            if not payload.sample:
                raise
            payload = replacement_log(payload, problem)
            data = self._encoded(payload)
        if self._redactor is not None:
            data = redact_data(self._redactor, data)
        event_id = self._new_id()
        after = b'"id":"%b","time":%b,"type":"%b",%b,"data":%b}\n' % (
            event_id.encode(),
            self._time(),
            payload.type.encode(),
            self._constant,
            data,
        )
        lane = SAMPLES if payload.sample else FACTS
        numbered = self._has_seq and not payload.transient
        written = self._spool.append(self._stream, lane, _BEFORE, after, numbered)
        if written.evicted or (written.is_recorded and self._spool.dropped != self._reported_drops):
            self._report(written.evicted)
        return event_id

    def hand_over(self, uid: int, gid: int) -> None:
        """Give the stream's files to a user, so that its process can emit too (root only)."""
        self._stream.hand_over(uid, gid)

    def close(self) -> None:
        """Release the stream's descriptors once the run has ended.

        A later emit opens them again.
        """
        self._stream.close()

    def _encoded(self, payload: Payload) -> bytes:
        fields = encode_data(payload)
        if len(fields) > LINE_LIMIT_BYTES - 4096:
            raise EncodingError(
                type(payload).__name__,
                "(all)",
                f"{len(fields)} bytes exceed ingest's 1 MiB; send it as an artifact",
            )
        start = self._data_start
        if len(start) == 1:
            return fields
        return start + b"}" if fields == b"{}" else b"%b,%b" % (start, fields[1:])

    def _time(self) -> bytes:
        now = self._clock.now()
        if now.microsecond:
            return _json(now)  # "2026-01-31T10:00:00.000001Z", quotes included
        return b'"%b"' % now.isoformat(timespec="microseconds").replace("+00:00", "Z").encode()

    def _report(self, losses: Iterable[DroppedSamples]) -> None:
        """Log how many samples are missing.

        Evicted ones in the log of their run, unwritten ones in this one.
        """
        for loss in losses:
            if (emitter := self._sibling(loss)) is not None:
                emitter._warn(
                    f"{loss.count} log and metric events were evicted, the oldest first: the spool is full "
                    f"({self._spool.max_bytes} bytes). Restore the connection to ingest or raise "
                    "POD_WORKER_SPOOL_MAX_MB."
                )
        total = self._spool.dropped
        drops, self._reported_drops = total - self._reported_drops, total
        if drops and self._has_seq:
            self._warn(f"{drops} log and metric events could not be recorded: the disk is full.")
            if self._spool.dropped > total:  # the warning itself was dropped: repeat it with the next event
                self._reported_drops = total - drops

    def _warn(self, message: str) -> None:
        self.emit(RunLog(level="warn", message=message, source="outbox"))

    def _sibling(self, loss: DroppedSamples) -> Emitter | None:
        """An emitter for the stream that lost events.

        None if its line names another attempt, or none.
        """
        try:
            found = msgspec.json.decode(loss.example, type=_Envelope)
        except msgspec.MsgspecError:  # a damaged line
            return None
        kind, _, name = found.subject.partition("/")
        if kind != "run" or found.attempt is None:
            return None
        stream = run_stream(name, found.attempt)
        if stream != loss.stream:  # code of the run can write lines: they must not reach another run's stream
            return None
        return Emitter(self._spool, stream, found.source, found.subject, self._clock, self._new_id, found.attempt)


class RunEmitter(Emitter):
    """`core.stage.EventEmitter` for one attempt of one run.

    `source` is `runpod://pod/<pod id>`.
    """

    def __init__(
        self,
        spool: Spool,
        source: str,
        run_id: str,
        attempt: int,
        clock: Clock,
        new_id: Callable[[], str],
        traceparent: str | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        stream = run_stream(run_id, attempt)
        super().__init__(spool, stream, source, f"run/{run_id}", clock, new_id, attempt, traceparent, redactor)
        self._report(spool.enforce_limit())


class PodEmitter(Emitter):
    """Events about the pod itself, such as a shortage of GPUs: no attempt, no seq."""

    def __init__(
        self,
        spool: Spool,
        source: str,
        pod_id: str,
        clock: Clock,
        new_id: Callable[[], str],
        redactor: Redactor | None = None,
    ) -> None:
        super().__init__(spool, pod_stream(pod_id), source, f"pod/{pod_id}", clock, new_id, redactor=redactor)
