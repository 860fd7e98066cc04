"""Faults of the link between a process and NATS: row 47."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.faults.process import Process
from tests.faults.scene import Act, Scene
from tests.faults.wire import BOTH, Wire

SLOW_S = 0.2
TRICKLE_BYTES = 400
"""Fifty times a second."""

Harm = Callable[[Wire], None]


def cut(wire: Wire) -> None:
    """Break it, and let nothing new through."""
    wire.held = True
    wire.cut()


def silent(wire: Wire) -> None:
    """Hold back what is sent, both ways."""
    wire.stopped = BOTH


def deaf(wire: Wire) -> None:
    """Hold back what NATS sends."""
    wire.stopped = frozenset({"back"})


def mute(wire: Wire) -> None:
    """Hold back what the process sends."""
    wire.stopped = frozenset({"there"})


def slow(wire: Wire) -> None:
    """Let each byte take 200 ms."""
    wire.delay_s = SLOW_S


def trickle(wire: Wire) -> None:
    """Let few bytes through."""
    wire.trickle = TRICKLE_BYTES


def of_a_runner(harm: Harm) -> Act:
    """Harm the link of a runner for a while."""

    async def act(scene: Scene) -> None:
        await _harm(scene, await scene.a_runner(), harm)

    return act


def of_a_bridge(harm: Harm) -> Act:
    """Harm the link of a bridge for a while."""

    async def act(scene: Scene) -> None:
        await _harm(scene, await scene.a_bridge(), harm)

    return act


async def _harm(scene: Scene, victim: Process, harm: Harm) -> None:
    wire = scene.stack.wire_of(victim)
    await scene.some_words()
    harm(wire)
    await asyncio.sleep(scene.bounds.frozen_s)
    wire.heal()
    scene.mark()
