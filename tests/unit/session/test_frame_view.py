"""A frame as hooks see it: all that came, and nothing to break."""

from __future__ import annotations

import pytest

from unpod.core import events as ev
from unpod.session.frame_view import FrameView


def test_a_frame_has_every_field_that_came() -> None:
    view = FrameView.of(ev.CallMetric(turns=3), b'{"event":"metric","turns":3,"region":"eu"}')
    assert dict(view) == {"event": "metric", "turns": 3, "region": "eu"}
    assert (len(view), view["region"], view.region, "region" in view) == (3, "eu", "eu", True)


def test_a_frame_becomes_a_dict_of_its_own() -> None:
    view = FrameView({"event": "metric", "turns": 3})
    assert view.model_dump() == {"event": "metric", "turns": 3}
    view.model_dump()["turns"] = 4
    assert view.turns == 3


def test_a_field_that_did_not_come_is_none_as_an_attribute_and_missing_as_an_item() -> None:
    view = FrameView({"turns": 3})
    assert (view.ttfa_ms, view.get("ttfa_ms")) == (None, None)
    with pytest.raises(KeyError):
        view["ttfa_ms"]


def test_a_frame_is_read_only() -> None:
    fields: dict[str, object] = {"turns": 3}
    view = FrameView(fields)
    with pytest.raises(AttributeError, match="read-only"):
        view.turns = 4
    fields["turns"] = 4
    assert view.turns == 3


def test_without_a_payload_it_has_what_is_typed() -> None:
    assert FrameView.of(ev.StateChanged(state="idle"), b"")["state"] == "idle"


@pytest.mark.parametrize(
    "data",
    [
        b'{"event":"metric","turns":3,"x":' + b"9" * 5_000 + b"}",
        b'{"event":"metric","turns":3,"\xff":1}',
        b'{"event":"metric","turns":3,"x":1e999}',
        b'{"event":"metric","turns":3,"x":' + b"[" * 100_000,
        b"[]",
    ],
)
def test_a_payload_that_cannot_be_read_as_a_whole_gives_what_is_typed(data: bytes) -> None:
    assert FrameView.of(ev.CallMetric(turns=3), data)["turns"] == 3


def test_a_name_of_pythons_own_is_no_field() -> None:
    with pytest.raises(AttributeError):
        _ = FrameView({}).__wrapped__
    assert repr(FrameView({"a": 1})) == "FrameView({'a': 1})"
