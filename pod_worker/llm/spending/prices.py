"""Prices of models: a dated snapshot, and a user's file that overrides it.

A price that is not known is not zero. Under a cap on money it is refused; without one the ledger holds null.
A server of one's own is free only where the file says so: `{"models": {"my-model": {"input": 0, "output": 0}}}`.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import TokenUsage
from pod_worker.llm.capability import short_name

SETTING = "POD_WORKER_LLM_PRICES"
_FILE = "prices.json"
_FILE_LIMIT_BYTES = 4 * 2**20
# A dated or floating name of a model that the snapshot lists without it.
_VERSION = re.compile(r"(-\d{8}|-\d{4}-\d{2}-\d{2}|-latest|@\d{8}|@latest)$")

Usd = Annotated[float, msgspec.Meta(ge=0, le=1e6)]  # for a million tokens; so many micro-USD for one


class PriceTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For requests with more input tokens than `above`."""

    above: int
    input: Usd
    output: Usd
    cached: Usd | None = None


class ModelPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens.

    `cached`: input that the provider read from its cache; None: as other input.
    """

    input: Usd
    output: Usd
    cached: Usd | None = None
    tiers: tuple[PriceTier, ...] = ()

    def micro_usd(self, usage: TokenUsage) -> int:
        """Rounded up."""
        rate: ModelPrice | PriceTier = self
        for tier in sorted(self.tiers, key=lambda each: each.above):
            if usage.input_tokens > tier.above:
                rate = tier
        cached = min(usage.cached_tokens, usage.input_tokens)
        cached_rate = rate.input if rate.cached is None else rate.cached
        total = (
            (usage.input_tokens - cached) * rate.input + cached * cached_rate + usage.output_tokens * rate.output
        )
        return math.ceil(round(total, 6))

    def worst_micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """The most that a call can cost: nothing is read from the provider's cache."""
        return self.micro_usd(TokenUsage(input_tokens, output_tokens))


FREE = ModelPrice(0, 0)


class _PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[str, ModelPrice]
    snapshot: str = ""
    unit: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PriceList:
    models: dict[str, ModelPrice]
    snapshot: str  # date of the vendored part
    sha256: str  # of everything that was read; recorded on the run

    def find(self, model: str) -> ModelPrice | None:
        """By the exact name, then without vendor, date or `-latest`."""
        exact = model.strip().lower()
        short = short_name(model)
        names = (exact, exact.rpartition("/")[2], short, _VERSION.sub("", short))
        return next((self.models[name] for name in names if name in self.models), None)

    def require(self, model: str) -> ModelPrice:
        """Raises RunError(INVALID_INPUT) for a model without a price."""
        price = self.find(model)
        if price is None:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"the price of model {model!r} is not known (list of {self.snapshot}), and the run has a cap on "
                f"money. Write its USD per million tokens into a JSON file and set {SETTING} to its path: "
                f'{{"models": {{"{model}": {{"input": 1.0, "output": 4.0}}}}}}, 0 for a server of your own. '
                "Or remove the cap on money.",
            )
        return price


def load_prices(override: Path | None = None) -> PriceList:
    """The vendored snapshot with a user's file over it.

    Raises RunError(INVALID_INPUT) for an unusable file.
    """
    vendored, content = _vendored()
    digest = hashlib.sha256(content)
    models = _normalised(vendored)
    if override is not None:
        own = _read_override(override)
        digest.update(own)
        models |= _normalised(_decode(own, override))
    return PriceList(models, vendored.snapshot, digest.hexdigest())


@cache
def _vendored() -> tuple[_PriceFile, bytes]:
    content = files("pod_worker.llm.spending").joinpath(_FILE).read_bytes()
    return msgspec.json.decode(content, type=_PriceFile), content


def _normalised(prices: _PriceFile) -> dict[str, ModelPrice]:
    return {name.strip().lower(): price for name, price in prices.models.items()}


def _read_override(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise RunError(
            FailureCode.INVALID_INPUT, f"{SETTING} points to {path}, which cannot be read: {error.strerror}"
        ) from None
    if len(content) > _FILE_LIMIT_BYTES:
        raise RunError(FailureCode.INVALID_INPUT, f"{SETTING} points to {path}, which is larger than 4 MiB")
    return content


def _decode(content: bytes, path: Path) -> _PriceFile:
    try:
        return msgspec.json.decode(content, type=_PriceFile)
    except msgspec.MsgspecError as error:
        raise RunError(
            FailureCode.INVALID_INPUT,
            f"{SETTING} points to {path}, which is no price list: {error}. "
            'It needs {"models": {"name": {"input": USD, "output": USD}}}, per million tokens.',
        ) from None
