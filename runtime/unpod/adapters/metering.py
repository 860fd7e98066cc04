"""What a model call took: time, tokens, and money where a price is given or known.

The price list is that of the `genai-prices` package, where it is installed (`pip install "unpod[prices]"`).
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Final

import msgspec
from msgspec import Struct

_price_list: ModuleType | None = None
with suppress(ImportError):  # at start-up, rather than in a call while others wait
    _price_list = import_module("genai_prices")

_CHARS_PER_TOKEN: Final = 4  # a rule of thumb for English, for replies that ended before the provider had counted
_PER: Final = 1_000_000


class Price(Struct, frozen=True, kw_only=True):
    """US dollars for a million tokens; `cached` and `cache_write` are those of input where they are not given."""

    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None

    def of(self, usage: MeteredUsage) -> float:
        """Return what the tokens of one call cost."""
        plain = max(0, (usage.tokens_in or 0) - usage.cached - usage.cache_write)
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        tokens_in = plain * self.input + usage.cached * cached + usage.cache_write * written
        return (tokens_in + (usage.tokens_out or 0) * self.output) / _PER


class MeteredUsage(Struct, frozen=True, kw_only=True):
    """Tokens of one call; `tokens_in` includes `cached` and `cache_write`. `cost` where the provider itself says it.

    A figure is None where the provider has not counted it to the end.
    """

    tokens_in: int | None = 0
    tokens_out: int | None = 0
    cached: int = 0
    cache_write: int = 0
    cost: float | None = None


class Meter:
    """One model call: told of its pieces as they come, it has the figures for `LLMCall` at the end."""

    def __init__(self, *, model: str, provider: str, prompt_chars: int, price: Price | None = None) -> None:
        self.model = model
        self.usage: MeteredUsage | None = None
        """What the provider counted, once it has."""
        self.answered = False
        """Whether anything has come from the provider."""
        self._provider = provider
        self._prompt_chars = prompt_chars
        self._price = price
        self._started = time.perf_counter()
        self._first: float | None = None
        self._chars = 0

    def see(self, piece: str) -> None:
        """Take note of what the model has written: spoken text, or a tool's arguments."""
        self.answered = True
        if piece:
            self._first = self._first or time.perf_counter()
            self._chars += len(piece)

    def fields(self) -> dict[str, object]:
        """Return the figures, times up to now."""
        counted = self.usage or MeteredUsage(tokens_in=None, tokens_out=None)
        estimated = counted.tokens_in is None or counted.tokens_out is None
        usage = msgspec.structs.replace(
            counted,
            tokens_in=_or_estimate(counted.tokens_in, self._prompt_chars),
            tokens_out=_or_estimate(counted.tokens_out, self._chars),
        )
        return {
            "provider": self._provider,
            "model": self.model,
            "call_type": "chat",
            "latency_ms": _ms(time.perf_counter() - self._started),
            "ttft_ms": None if self._first is None else _ms(self._first - self._started),
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "cached": usage.cached,
            "cache_write": usage.cache_write,
            "estimated": estimated,
            "cost": self._cost(usage),
        }

    def _cost(self, usage: MeteredUsage) -> float | None:
        if usage.cost is not None:
            return usage.cost
        return self._price.of(usage) if self._price is not None else listed(self._provider, self.model, usage)


def _or_estimate(counted: int | None, chars: int) -> int:
    return math.ceil(chars / _CHARS_PER_TOKEN) if counted is None else counted


def listed(provider: str, model: str, usage: MeteredUsage) -> float | None:
    """Return what a call costs by the price list, None where that is missing or does not know the model."""
    if _price_list is None:
        return None
    counted = _price_list.Usage(
        input_tokens=usage.tokens_in or 0,
        output_tokens=usage.tokens_out or 0,
        cache_read_tokens=usage.cached,
        cache_write_tokens=usage.cache_write,
    )
    try:
        return float(_price_list.calc_price(counted, model_ref=model, provider_id=provider).total_price)
    except (LookupError, ValueError):
        return None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
