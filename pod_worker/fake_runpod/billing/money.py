"""Money as integers; US dollars only on the wire.

Prices are nano-dollars per hour, amounts are pico-dollars. A pico-dollar is a thousandth of the smallest price
unit. The rounding error of many thousand bills stays below one micro-dollar.
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
