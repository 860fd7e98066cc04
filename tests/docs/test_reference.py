"""The reference against the code: every name in its tables exists, and every public name is in one."""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields

import pytest
from msgspec.structs import fields as struct_fields
from tests.docs import analytics, command_line, wire
from tests.pages import ROOT, table

from unpod import AgentRunner, AsyncClient, CallContext, CallMetrics, RunnerStats, Session, adapters
from unpod.adapters import LLMCall, protocol
from unpod.core import envelope
from unpod.core.metrics import Cost, Tokens
from unpod.core.own_hooks import TURN_FIELDS
from unpod.core.subjects import Subjects
from unpod.management.sessions import Sessions
from unpod.runner.runner_hooks import EVENTS as RUNNER_EVENTS
from unpod.session.hooks import EVENTS
from unpod.session.recording import Recording
from unpod.testing import SimulatedCall, simulate_call
from unpod_bridge.workers.host_info import CLOUDS, REGIONS
from unpod_cli.dev.talk import HELP

REFERENCE = ROOT / "docs" / "reference"
PACKAGES = [
    ROOT / "runtime" / "unpod",
    ROOT / "runtime" / "unpod_cli",
    ROOT / "bridge" / "unpod_bridge",
    ROOT / "bridge" / "unpod_orchestrator",
]
CODE = re.compile(r"`([^`]+)`")


def names(rows: list[list[str]]) -> list[str]:
    """Return what stands in the first column, in backticks."""
    return [name for row in rows for name in CODE.findall(row[0])]


def parameters(text: str) -> list[tuple[str, str, str]]:
    """Return name, kind and default of the parameters that a text such as `(a, *, b=1)` says."""
    made: dict[str, Callable[..., object]] = {}
    exec(f"def found{text}: ...", made)  # noqa: S102 - our own pages
    return parameters_of(made["found"])


def parameters_of(function: Callable[..., object]) -> list[tuple[str, str, str]]:
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [(p.name, str(p.kind), "" if p.default is p.empty else repr(p.default)) for p in found]


def check_verb(documented: str, *homes: type) -> str:
    """Make sure that a verb can be called as its page shows it; return its name."""
    found = re.fullmatch(r"(await )?([\w.]+)(\(.*\))", documented)
    assert found is not None, documented
    name = found[2].rpartition(".")[2]
    function = next(getattr(home, name) for home in homes if hasattr(home, name))
    assert parameters(found[3]) == parameters_of(function), documented
    assert inspect.iscoroutinefunction(function) == bool(found[1]), documented
    return found[2]


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


# ------------------------------------------------------------------------------------------------------------ sessions


def test_the_verbs_of_a_session() -> None:
    verbs = {check_verb(verb, Session, Recording) for verb in names(table(REFERENCE / "session.md", "Verbs"))}
    properties = set(names(table(REFERENCE / "session.md", "Properties")))
    made_in_init = {"data", "recording", "metrics"}
    assert {verb for verb in verbs if "." not in verb} | properties == public(Session) | made_in_init
    assert {verb for verb in verbs if "." in verb} == {f"recording.{name}" for name in public(Recording) - {"paused"}}


def test_the_hooks_of_a_session() -> None:
    rows = table(REFERENCE / "session.md", "Hooks")
    assert names(rows) == list(EVENTS)
    by_name = {"llm_call": ("turn_id", *LLMCall.__struct_fields__), "turn_complete": TURN_FIELDS}
    for (event, *_), (_, documented, *_) in zip(EVENTS.items(), rows, strict=True):
        arguments = documented.removeprefix("by name: ").strip("`")
        expected = by_name.get(event)
        assert arguments == (", ".join(expected) if expected else EVENTS[event].strip("()")), event


def test_the_figures_of_a_call() -> None:
    documented = set(names(table(REFERENCE / "session.md", "CallMetrics")))
    flat = {field.name for field in struct_fields(CallMetrics)} - {"cost", "tokens"}
    derived = public(CallMetrics) & {name for name, value in vars(CallMetrics).items() if isinstance(value, property)}
    assert documented == flat | derived | {"cost.voice", "cost.llm", "cost.total", "tokens.input", "tokens.output"}
    assert {name for name in documented if name.startswith("cost.")} == {
        f"cost.{n}" for n in (*Cost.__struct_fields__, "total")
    }
    assert {name for name in documented if name.startswith("tokens.")} == {
        f"tokens.{n}" for n in Tokens.__struct_fields__
    }


# ------------------------------------------------------------------------------------------------------------- runners


def test_what_a_runner_is_made_with() -> None:
    rows = table(REFERENCE / "runner.md", "AgentRunner")
    signature = [(name, default) for name, _, default in parameters_of(AgentRunner.__init__)]
    assert [(row[0].strip("`"), row[1].strip("`")) for row in rows] == signature


def test_the_verbs_of_a_runner() -> None:
    verbs = {check_verb(verb, AgentRunner) for verb in names(table(REFERENCE / "runner.md", "AgentRunner", 1))}
    assert verbs == public(AgentRunner) - {"agent_id"}


def test_the_hooks_of_a_runner() -> None:
    rows = table(REFERENCE / "runner.md", "Hooks")
    assert {row[0].strip("`"): f"({row[1].strip('`')})" for row in rows} == RUNNER_EVENTS


def test_the_fields_of_a_context_and_of_the_stats() -> None:
    assert names(table(REFERENCE / "runner.md", "CallContext")) == [field.name for field in fields(CallContext)]
    assert names(table(REFERENCE / "runner.md", "RunnerStats")) == [field.name for field in fields(RunnerStats)]


def test_the_client() -> None:
    rows = table(REFERENCE / "client.md", "The management client")
    signature = [(name, default) for name, _, default in parameters_of(AsyncClient.__init__)]
    assert [(row[0].strip("`"), row[1].strip("`")) for row in rows] == signature
    verbs = {check_verb(verb, Sessions) for verb in names(table(REFERENCE / "client.md", "The management client", 1))}
    assert verbs == public(Sessions)


# ----------------------------------------------------------------------------------------------- environment, commands


def constants() -> set[str]:
    """Return every string that stands in the code and looks like a variable's name."""
    found: set[str] = set()
    for package in PACKAGES:
        for file in package.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= set(re.findall(r"\A[A-Z][A-Z0-9_]*[A-Z0-9]\Z", node.value))
    return found


@pytest.mark.slow
def test_the_variables_are_those_that_the_code_reads() -> None:
    documented = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)`", (REFERENCE / "configuration.md").read_text()))
    worker = re.findall(r'_override\(environment, "([A-Z]+)"', (PACKAGES[2] / "workers" / "host_info.py").read_text())
    in_code = constants() | {f"UNPOD_WORKER_{name}" for name in worker}
    ours = {name for name in in_code if re.match(r"(UNPOD|NATS|OTEL)_", name)} | {*REGIONS, *CLOUDS, "NO_COLOR"}
    assert ours - documented == set(), "the code reads what the page does not tell"
    assert documented - in_code == set(), "the page tells what nobody reads"


def test_the_page_of_the_command_line_is_current() -> None:
    assert command_line.PAGE.read_text() == command_line.render(), (
        "a command has changed: run .venv/bin/python tests/docs/command_line.py"
    )


# --------------------------------------------------------------------------------------------- guides and explanations


def test_the_headers_of_the_log() -> None:
    documented = names(table(ROOT / "docs/explanation/log.md", "Records"))
    written = {value for value in vars(envelope).values() if isinstance(value, str)}
    source = inspect.getsource(envelope)
    for header in documented:
        assert header in written or f'"{header}"' in source, header


def test_what_can_be_typed_in_dev() -> None:
    documented = set(re.findall(r"`(/\w+)`", (ROOT / "docs/tutorials/first-agent.md").read_text()))
    assert documented
    assert documented <= {command for command, _ in HELP}


def test_what_an_adapter_may_have() -> None:
    rows = table(ROOT / "docs/how-to/write-an-adapter.md", "Optional methods")
    documented = {re.split(r"\W", name)[0] for name in names(rows)}
    assert documented == {*protocol._OPTIONAL, "is_complete", "state"}


def test_every_adapter_is_told_of() -> None:
    page = (REFERENCE / "adapters.md").read_text()
    told = set(re.findall(r"\w+", " ".join(CODE.findall(page))))
    reports = {"ChatMessage", "LLMCall", "Pause", "Piece", "Rule", "ToolCall", "ToolResult"}
    assert set(adapters.__all__) - reports <= told
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - {"analytics", "consumers", "dev", "dotenv", "embedded", "fast"} - told <= {"prices"}


def test_what_a_simulated_call_can() -> None:
    page = ROOT / "docs/how-to/test-an-agent.md"
    for row in [*table(page, "Test an agent"), *table(page, "Test an agent", 1)]:
        for name in CODE.findall(row[0]):
            found = re.fullmatch(r"(await )?call\.(\w+)(\(.*\))?", name)
            assert found is not None, name
            attribute = inspect.getattr_static(SimulatedCall, found[2])
            if found[3] is None:
                assert isinstance(attribute, property), name
                continue
            assert inspect.iscoroutinefunction(attribute) == bool(found[1]), name
            # By name: what a test writes is `call.user("hi", language="de")`, whether or not it may be positional.
            assert {p[0] for p in parameters(found[3])} <= {p[0] for p in parameters_of(attribute)}, name
    assert "verbs" in inspect.signature(simulate_call).parameters


# ------------------------------------------------------------------------------------------------------------ the wire


def test_the_analytics_tables_are_current() -> None:
    assert analytics.PAGE.read_text() == analytics.page(), "run make docs"


def test_the_pages_of_the_wire_are_what_the_types_say() -> None:
    assert wire.PAGE.read_text() == wire.render_page(), "run .venv/bin/python tests/docs/wire.py"
    assert wire.SPEC.read_text() == wire.render_spec(), "run .venv/bin/python tests/docs/wire.py"


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    document = json.loads(wire.SPEC.read_text())
    found = re.findall(r'"\$ref": "#/([^"]+)"', wire.SPEC.read_text())
    assert len(found) > len(wire.CHANNELS)
    for reference in found:
        node = document
        for part in reference.split("/"):
            node = node[part]


def test_every_subject_that_the_code_can_build_is_described() -> None:
    subjects = Subjects()
    call = subjects.call("A", "S")
    built = [
        *(call.line, call.own, call.evt("x"), call.ack, call.run("x"), call.cmd, call.ctl),
        *(call.delta, call.again, call.spoken, call.seen),
        *(subjects.runners, subjects.bridges, subjects.alive, subjects.probations),
        *(subjects.dispatch("A"), subjects.resume("A")),
        *(subjects.queued("A"), subjects.runner("R"), f"{subjects.runner('R')}.ping", subjects.bridge("B")),
    ]
    names = {"agent": "A", "session": "S", "type": "x", "runner": "R", "bridge": "B"}
    assert [channel.address.format(**names) for channel in wire.CHANNELS] == built
