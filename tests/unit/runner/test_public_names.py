from __future__ import annotations

import subprocess
import sys

import pytest

import unpod


@pytest.mark.parametrize("name", unpod.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(unpod, name).__name__ == name
    assert name in dir(unpod)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        unpod.Nothing  # noqa: B018


def test_importing_unpod_loads_nothing_that_is_not_asked_for() -> None:
    code = "import sys, unpod; print([m for m in ('nats', 'httpx2', 'msgspec', 'asyncio') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
