"""The example with a superdialog flow, run on a call, its model played by a server on this machine."""

from __future__ import annotations

import runpy

import pytest
from tests.pages import ROOT
from tests.providers.served import serve
from tests.superdialog.machine_wire import MachineWire, let_go

from unpod.adapters import ToolCall
from unpod.testing import Answer, FakeModel, simulate_call


@pytest.mark.filterwarnings("ignore:Items? '.*' on TypedDict class:UserWarning")
async def test_a_flow_as_a_brain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    edge = ToolCall("has_ordered", {"pizza": "funghi"}, "c1")
    async with serve(FakeModel(Answer(("Which one?",)), Answer((edge,))), MachineWire("toolcall")) as served:
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
        handle_call = runpy.run_path(str(ROOT / "examples" / "superdialog_agent.py"))["handle_call"]
        async with simulate_call(handle_call, metadata={"user_number": "+15550100"}, timeout_s=20) as call:
            assert await call.user("hello") == "Which one?"
            assert await call.user("a funghi") == "It is ready in twenty minutes. Bye!"
            assert await call.ended() == "completed"
        await let_go()
    assert "ordered: funghi" in capsys.readouterr().out
