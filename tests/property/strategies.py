"""Any fact and any command, as hypothesis strategies; made from the types, so that a new one is among them."""

from __future__ import annotations

from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from msgspec import Struct

from unpod.core import commands as cmd
from unpod.core import events as ev
from unpod.core.controls import AnyControl
from unpod.core.subjects import Channel

FAMILIES: dict[Channel, object] = {
    "evt": ev.CallerEvent,
    "ack": ev.Receipt,
    "run": ev.SessionEvent,
    "cmd": cmd.AnyCommand,
    "ctl": AnyControl,
    "line": ev.Placement,
    "own": ev.Placement,
}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
integers = st.integers(min_value=-(2**63), max_value=2**63 - 1)
floats = st.floats(-1e9, 1e9)
values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
ids = st.text(min_size=1, max_size=30) | st.text(
    st.sampled_from("*>. \x00\r\n\t=~%/\\\"'aZ0-_☎é\ud800"), min_size=1, max_size=30
)

_PLAIN: dict[object, st.SearchStrategy[object]] = {
    str: texts,
    int: integers,
    float: floats,
    bool: st.booleans(),
    object: values,
    type(None): st.none(),
}


def of_type(hint: object) -> st.SearchStrategy[object]:
    """Return a strategy for what an annotation allows."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, UnionType):
        return st.one_of([of_type(arg) for arg in args])
    if origin is tuple:
        return st.lists(of_type(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(texts, of_type(args[1]), max_size=3)
    assert isinstance(hint, type), hint
    assert issubclass(hint, Struct), hint
    return of_struct(hint)


def of_struct(kind: type[Struct]) -> st.SearchStrategy[Struct]:
    """Return a strategy for a Struct with any fields."""
    return st.builds(kind, **{name: of_type(hint) for name, hint in get_type_hints(kind).items()})


def of_channel(channel: Channel) -> st.SearchStrategy[Struct]:
    """Return a strategy for what can stand on a channel."""
    members: tuple[type[Struct], ...] = get_args(FAMILIES[channel])
    return st.one_of([of_struct(member) for member in members])


bodies = st.sampled_from(sorted(FAMILIES)).flatmap(
    lambda channel: st.tuples(st.just(channel), of_channel(channel)),
)
