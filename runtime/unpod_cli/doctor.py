"""`unpod doctor`: each thing that can be wrong with a set-up, looked at in turn, with what mends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from rich.text import Text

from unpod_cli import loop
from unpod_cli.console import make_console
from unpod_cli.diagnosis import Finding, Status
from unpod_cli.failure import FAILED
from unpod_cli.here import look_here
from unpod_cli.layout import Cell, Columns, facts
from unpod_cli.nats_checks import look_at_nats
from unpod_cli.streams import environment

_STYLES: Final[Mapping[Status, str]] = {"ok": "green", "warning": "yellow", "wrong": "bold red", "skipped": "dim"}


def run_doctor(*, nats_url: str | None, agent: str | None, as_json: bool) -> int:
    """Look at everything and say what was found; return 1 where something is wrong."""
    findings = loop.run(lambda: _examine((nats_url or "").strip(), (agent or "").strip()))
    wrong = [each for each in findings if each.status == "wrong"]
    if as_json:
        print(json.dumps({"ok": not wrong, "checks": [each.as_json() for each in findings]}, indent=2))
    else:
        _show(findings, len(wrong))
    return FAILED if wrong else 0


async def _examine(nats_url: str, agent: str) -> list[Finding]:
    found = environment()
    return [*await look_here(found, alone=_alone(found, nats_url)), *await look_at_nats(found, nats_url, agent)]


def _alone(found: Mapping[str, str], nats_url: str) -> bool:
    return not (nats_url or {"UNPOD_NATS_URL", "NATS_URL", "NATS_CONTEXT"} & found.keys())


def _show(findings: list[Finding], wrong: int) -> None:
    out = make_console()
    rows: list[list[Cell]] = []
    for each in findings:
        rows.append([Text(each.status, style=_STYLES[each.status]), each.name, each.detail])
        if each.fix:
            rows.append(["", "", f"fix: {each.fix}"])
    out.print(Columns(rows))
    out.print(facts(("result", f"{wrong} wrong" if wrong else "nothing is wrong")))
