"""For how long a holder trusts its lease: from before the request was sent, and for less than was granted."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from pod_worker.core.clock import ManualClock, SystemClock
from pod_worker.core.lease import Fence, Lease

seconds = st.floats(0, 1e6, allow_nan=False)
FENCE = Fence("a", 1, "token")


@given(asked=seconds, travel=seconds, length=st.floats(3, 3600), margin=st.floats(0.1, 900), after=seconds)
def test_trust_ends_before_the_databases_lease_however_long_the_request_took(
    asked: float, travel: float, length: float, margin: float, after: float
) -> None:
    """The database grants `length` from when it gets the request: not before it was sent."""
    assume(margin < length)
    lease = Lease(FENCE, length, margin, asked)
    database_end = asked + travel + length

    assert lease.trusted_until <= database_end - margin + 1e-6
    assert lease.is_trusted(after) == (after < lease.trusted_until)


def test_a_renewal_moves_the_trust_and_nothing_else() -> None:
    lease = Lease(FENCE, 60, 15, 100.0)
    renewed = lease.renewed(200.0)
    assert (lease.trusted_until, renewed.trusted_until) == (145.0, 245.0)
    assert (renewed.fence, renewed.seconds, renewed.margin_seconds) == (FENCE, 60, 15)
    assert lease.is_trusted(144.9)
    assert not lease.is_trusted(145.0)


def test_a_manual_clock_moves_both_times_together() -> None:
    clock = ManualClock()
    now, monotonic = clock.now(), clock.monotonic()
    clock.advance(2.5)
    assert (clock.now() - now).total_seconds() == clock.monotonic() - monotonic == 2.5


def test_the_system_clock_is_aware_and_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() is not None
    assert clock.monotonic() <= clock.monotonic()
