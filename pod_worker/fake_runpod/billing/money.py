"""Money as integers: prices in nano-dollars per hour, amounts owed in pico-dollars, US dollars only on the wire.

A pico-dollar is a thousandth of what a price can say, so that rounding down many thousand bills stays far below a
micro-dollar.
"""

from __future__ import annotations

NANO = 1_000_000_000
PICO = 1_000_000_000_000
PICO_PER_NANO = PICO // NANO


def price_usd(nano: int) -> float:
    """USD per hour of a price."""
    return nano / NANO


def amount_usd(pico: int) -> float:
    """USD of an amount."""
    return pico / PICO
