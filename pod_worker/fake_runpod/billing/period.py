"""The period of a billing query: explicit, the last N buckets, or 30 days.

The period is widened to bucket edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.billing.ledger import BUCKETS, Charge, Ledger, bucket_next, bucket_start
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind
from pod_worker.fake_runpod.timestamps import DAY

LONGEST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """[start, end) on bucket edges, UTC."""

    start_ns: int
    end_ns: int
    bucket: str

    def charges(self, ledger: Ledger, until: int, item_id: str | None = None) -> Iterator[Charge]:
        return ledger.charges(self.start_ns, self.end_ns, self.bucket, until, item_id)


def parse_period(query: Mapping[str, str], now_ns: int, kind: ApiErrorKind) -> BillingPeriod:
    """From startTime, endTime, bucketSize and lastN.

    Raises ApiError of `kind` for a value that cannot be parsed.
    """
    bucket = query.get("bucketSize", "day")
    if bucket not in BUCKETS:
        raise _api_error(kind, f"bucketSize: must be one of {', '.join(BUCKETS)}")
    end = _snap_up(_instant(query, "endTime", now_ns, kind), bucket)
    start = bucket_start(_instant(query, "startTime", now_ns - 30 * DAY, kind), bucket)
    if (last := query.get("lastN")) is not None:
        if "startTime" in query or "endTime" in query:
            raise ApiError(ApiErrorKind.RULE, "lastN is mutually exclusive with startTime and endTime")
        if not last.isdecimal() or not 1 <= int(last) <= LONGEST_BUCKETS:
            raise _api_error(kind, f"lastN: must be an integer from 1 to {LONGEST_BUCKETS}")
        start = bucket_start(now_ns, bucket)
        for _ in range(int(last) - 1):
            start = bucket_start(start - 1, bucket)
    if start > end:
        raise ApiError(ApiErrorKind.RULE, "startTime is after endTime")
    return BillingPeriod(start, end, bucket)


def _instant(query: Mapping[str, str], name: str, default: int, kind: ApiErrorKind) -> int:
    if name not in query:
        return default
    try:
        return timestamps.parse(query[name])
    except ValueError as error:
        raise _api_error(kind, f"{name}: {error}") from None


def _snap_up(instant: int, bucket: str) -> int:
    edge = bucket_start(instant, bucket)
    return edge if edge == instant else bucket_next(edge, bucket)


def _api_error(kind: ApiErrorKind, line: str) -> ApiError:
    return ApiError(kind, "Request validation failed.", (line,))
