"""Exponential backoff with full jitter, and the Retry-After header; never sleeps.

Full jitter: uniform in [0, min(cap, first * 2**retries)] (AWS Architecture Blog, "Exponential Backoff And
Jitter", 2015). Clients that failed at the same moment then do not come back at the same moment.
"""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

DOUBLINGS_LIMIT = 30  # further doublings exceed every cap, and would overflow a float in the end


def backoff_bound(retries: int, first_seconds: float, cap_seconds: float) -> float:
    """The longest wait before retry number `retries`, counted from 0."""
    return min(cap_seconds, first_seconds * 2.0 ** min(max(retries, 0), DOUBLINGS_LIMIT))


def full_jitter(retries: int, first_seconds: float, cap_seconds: float, rng: random.Random) -> float:
    """Seconds to wait before retry number `retries`, counted from 0."""
    return rng.uniform(0, backoff_bound(retries, first_seconds, cap_seconds))


def is_temporary_status(status: int) -> bool:
    """Whether a request with this HTTP status may succeed later."""
    return status in (408, 425, 429) or status >= 500


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3).

    Reads delay-seconds (fractions too, which some servers send) and all three forms of an HTTP date. A date in
    the past is 0. None for an absent or malformed header. The caller sets its own upper limit.
    """
    text = (header or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(http_date: str, now: datetime) -> float | None:
    from email.utils import parsedate_to_datetime  # imports sockets, which few callers of this module need

    try:
        moment = parsedate_to_datetime(http_date)
        # An HTTP date is always in GMT; the asctime form does not say so.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
