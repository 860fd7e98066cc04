"""What a model call cost."""

from __future__ import annotations

import pytest

from unpod.adapters import Price, metering
from unpod.adapters.metering import Meter, MeteredUsage, listed

USAGE = MeteredUsage(tokens_in=1_000_000, tokens_out=1_000_000, cached=400_000, cache_write=100_000)


def cost(**options: object) -> object:
    meter = Meter(**{"model": "gpt-4o-mini", "provider": "openai", "prompt_chars": 8, **options})  # type: ignore[arg-type]
    meter.usage = USAGE
    return meter.fields()["cost"]


def test_a_price_that_is_given() -> None:
    assert Price(input=2, output=10, cached=1, cache_write=3).of(USAGE) == pytest.approx(1.0 + 0.4 + 0.3 + 10)
    assert Price(input=2, output=10).of(USAGE) == pytest.approx(12)
    assert cost(price=Price(input=1, output=1)) == pytest.approx(2)


def test_a_price_that_is_known() -> None:
    small = MeteredUsage(tokens_in=1000, tokens_out=50, cached=100)
    assert listed("openai", "gpt-4o-mini", small) == pytest.approx((900 * 0.15 + 100 * 0.075 + 50 * 0.6) / 1e6)
    assert listed("openai", "tiny-2025", small) is None
    assert listed("nobody", "tiny", small) is None


def test_a_cost_that_the_provider_says() -> None:
    meter = Meter(model="gpt-4o-mini", provider="openai", prompt_chars=8, price=Price(input=1, output=1))
    meter.usage = MeteredUsage(tokens_in=5, cost=0.25)
    assert meter.fields()["cost"] == 0.25


def test_without_the_price_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_price_list", None)
    assert cost() is None


def test_what_nobody_has_counted_is_estimated() -> None:
    meter = Meter(model="tiny", provider="local", prompt_chars=9)
    meter.see("Hello")
    fields = meter.fields()
    assert (fields["tokens_in"], fields["tokens_out"], fields["estimated"]) == (3, 2, True)
