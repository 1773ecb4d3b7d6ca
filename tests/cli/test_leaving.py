"""A short command ends when its work is done."""

from __future__ import annotations

from pymongo.synchronous import monitor


def test_the_drivers_wait_at_exit_is_where_we_take_it_away() -> None:
    """Not a public name: without it commands end half a second later, and no other test would fail."""
    assert callable(monitor._shutdown_resources)
