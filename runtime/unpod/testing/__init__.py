"""What tests need instead of the outside world; public, for users' tests too."""

from unpod.adapters.scripted import Pause, Rule, ScriptedAdapter
from unpod.session.settings import SessionSettings
from unpod.testing.broker import MemoryBroker
from unpod.testing.clock import VirtualClock
from unpod.testing.contract import ADAPTER_PROMISES, TOOL_PROMISES, adapter_contract
from unpod.testing.fake_model import Answer, FakeModel, ModelFailed
from unpod.testing.line import ALL_VERBS, Reply, Spoken
from unpod.testing.memory import MemoryLog
from unpod.testing.simulate import SimulatedCall, simulate_call
from unpod.testing.survive import assert_survives_crashes

__all__ = [
    "ADAPTER_PROMISES",
    "ALL_VERBS",
    "TOOL_PROMISES",
    "Answer",
    "FakeModel",
    "MemoryBroker",
    "MemoryLog",
    "ModelFailed",
    "Pause",
    "Reply",
    "Rule",
    "ScriptedAdapter",
    "SessionSettings",
    "SimulatedCall",
    "Spoken",
    "VirtualClock",
    "adapter_contract",
    "assert_survives_crashes",
    "simulate_call",
]
