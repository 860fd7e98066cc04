"""What commands do on a call."""

from __future__ import annotations

from typing import get_args

from unpod.core import commands as cmd
from unpod_bridge.protocol.effects import EFFECTS


def test_a_command_has_an_effect_or_is_claimed_first() -> None:
    assert {*EFFECTS, *cmd.IRREVERSIBLE} == set(get_args(cmd.AnyCommand))
    assert not set(EFFECTS) & set(cmd.IRREVERSIBLE)
