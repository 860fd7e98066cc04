from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unpod import AgentRunner
from unpod_cli.agent_file import AgentProblem, check_file, load_agent, load_runner, local_files, split_target

Write = Callable[[str, str], Path]

HEAD = "from unpod import AgentRunner\nasync def handle_call(ctx): ...\n"


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test imports as a process of its own would, in a folder of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


def problem(path: Path, name: str = "") -> str:
    with pytest.raises(AgentProblem) as caught:
        load_agent(path, name)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- what is found ----------------------------------------------------------------------------------------------------


def test_the_runner_of_a_file(write: Write) -> None:
    path = write("agent.py", f"{HEAD}runner = AgentRunner(handle_call, 'mine')\n")
    assert load_agent(path).agent_id == "mine"


def test_one_runner_under_two_names_is_one(write: Write) -> None:
    path = write("agent.py", f"{HEAD}a = AgentRunner(handle_call, 'mine')\nb = a\n")
    assert load_agent(path).agent_id == "mine"


def test_just_an_entrypoint_is_an_agent_named_like_the_file(write: Write) -> None:
    path = write("greeter.py", "async def handle_call(ctx): ...\nasync def helper(ctx): ...\n")
    assert load_agent(path).agent_id == "greeter"


def test_the_only_coroutine_that_takes_a_call_is_the_entrypoint(write: Write) -> None:
    source = "async def answer(ctx): ...\nasync def lookup(a, b): ...\nasync def _private(ctx): ...\n"
    assert load_agent(write("agent.py", source)).agent_id == "agent"


def test_a_coroutine_that_was_imported_is_no_entrypoint(write: Write) -> None:
    write("helper.py", "async def lookup(name): ...\n")
    path = write("agent.py", "from helper import lookup\nasync def answer(ctx): ...\n")
    assert load_agent(path).agent_id == "agent"


def test_a_runner_that_is_started_on_import_is_taken_and_not_started(write: Write) -> None:
    path = write("agent.py", f"{HEAD}AgentRunner(handle_call, 'mine').start()\nraise AssertionError\n")
    assert load_agent(path).agent_id == "mine"
    assert AgentRunner.start.__module__ == "unpod.runner.runner"


def test_so_is_one_that_is_run_on_import(write: Write) -> None:
    path = write(
        "agent.py",
        f"import asyncio\n{HEAD}try:\n    asyncio.run(AgentRunner(handle_call, 'x').run())\nexcept Exception: ...\n",
    )
    assert load_agent(path).agent_id == "x"


def test_a_file_named_like_a_module_that_is_there(write: Write) -> None:
    path = write("json.py", f"{HEAD}runner = AgentRunner(handle_call, 'mine')\n")
    assert load_agent(path).agent_id == "mine"
    assert "decoder" in vars(sys.modules["json"])


def test_it_imports_from_its_own_folder(write: Write) -> None:
    write("sub/words.py", "NAME = 'from-beside'\n")
    path = write("sub/agent.py", f"from words import NAME\n{HEAD}runner = AgentRunner(handle_call, NAME)\n")
    assert load_agent(path).agent_id == "from-beside"
    assert local_files(path.parent) == {path, path.with_name("words.py")}


@pytest.mark.parametrize(("name", "agent_id"), [("one", "first"), ("two", "second"), ("handle_call", "agent")])
def test_one_of_several_by_name(write: Write, name: str, agent_id: str) -> None:
    path = write(
        "agent.py", f"{HEAD}one = AgentRunner(handle_call, 'first')\ntwo = AgentRunner(handle_call, 'second')\n"
    )
    assert load_agent(path, name).agent_id == agent_id


@pytest.mark.parametrize(
    ("target", "path", "name"),
    [
        ("agent.py", "agent.py", ""),
        ("a/agent.py:sales", "a/agent.py", "sales"),
        ("C:/agents/agent.py", "C:/agents/agent.py", ""),
        ("agent.py:", "agent.py:", ""),
        ("agent.py:1x", "agent.py:1x", ""),
    ],
)
def test_targets(target: str, path: str, name: str) -> None:
    assert split_target(target) == (Path(path), name)


def test_a_file_that_is_there_counts_before_a_name(write: Write) -> None:
    write("agent.py:sales", "")
    assert split_target("agent.py:sales") == (Path("agent.py:sales"), "")


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_two_runners_need_a_choice(write: Write) -> None:
    path = write("agent.py", f"{HEAD}one = AgentRunner(handle_call, 'a')\ntwo = AgentRunner(handle_call, 'b')\n")
    assert problem(path) == "agent.py has 2 agents: one, two; choose one, as in `unpod dev agent.py:one`"


def test_two_entrypoints_need_a_choice(write: Write) -> None:
    path = write("agent.py", "async def sales(ctx): ...\nasync def support(ctx): ...\n")
    assert "2 possible entrypoints: sales, support; choose one, as in `unpod dev agent.py:sales`" in problem(path)


def test_a_name_that_is_not_there(write: Write) -> None:
    path = write("agent.py", f"{HEAD}one = AgentRunner(handle_call, 'a')\n")
    assert problem(path, "three") == "agent.py has no agent three: it has one, handle_call"


def test_no_agent(write: Write) -> None:
    assert "agent.py defines no agent: add `async def handle_call(ctx)`" in problem(write("agent.py", "x = 1\n"))


def test_no_file(write: Write, tmp_path: Path) -> None:
    assert problem(tmp_path / "agent.py").startswith("there is no file agent.py: ")
    write("agent.py", "")
    assert problem(tmp_path / "agent").endswith("did you mean agent.py?")
    assert "is a folder" in problem(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.py"
    path.write_bytes(b"x = '\xff\xfe'\n")
    assert problem(path).startswith("agent.py")
    path.write_bytes(b"x = 1\0\n")
    assert problem(path).startswith("agent.py")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1\ndef f(:\n", "agent.py:2: SyntaxError: invalid syntax"),
        ("x = (\n", "agent.py:1: SyntaxError: '(' was never closed"),
        ("\nx = y\n", "agent.py:2: NameError: name 'y' is not defined"),
        ("def f():\n    raise ValueError\nf()\n", "agent.py:2: ValueError"),
        (
            "import nowhere_to_be_found\n",
            "agent.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'; install",
        ),
        ("import sys\nsys.exit(3)\n", "agent.py:2: it ends the process when it is imported"),
        ("\nraise SystemExit('set A_KEY')\n", "agent.py:2: set A_KEY"),
        ("import json\njson.loads('{')\n", "agent.py:2: JSONDecodeError: "),
        (f"{HEAD}AgentRunner(handle_call, '')\n", "agent.py:3: agent_id is empty"),
        (
            "from unpod import AgentRunner\nAgentRunner(print, 'x')\n",
            "agent.py:2: TypeError: entrypoint=print is not async",
        ),
    ],
)
def test_a_file_that_does_not_import(write: Write, source: str, text: str) -> None:
    assert problem(write("agent.py", source)).startswith(text)


def test_the_place_is_where_the_users_code_is_wrong(write: Write) -> None:
    write("helper.py", "\n\nx = 1 / 0\n")
    assert problem(write("agent.py", "import helper\n")) == "helper.py:3: ZeroDivisionError: division by zero"
    write("broken.py", "def\n")
    assert problem(write("agent2.py", "import broken\n")).startswith("broken.py:1: SyntaxError")


def test_a_look_at_a_file_does_not_run_it(write: Write) -> None:
    check_file(write("agent.py", "raise AssertionError\n"))


# --- MODULE:RUNNER ----------------------------------------------------------------------------------------------------


def run_problem(target: str) -> str:
    with pytest.raises(AgentProblem) as caught:
        load_runner(target)
    return str(caught.value)


@pytest.fixture
def package(write: Write, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    write("shop/__init__.py", "")
    write("shop/agents.py", f"{HEAD}runner = AgentRunner(handle_call, 'mine')\nNUMBER = 3\n")
    write("shop/eager.py", f"{HEAD}AgentRunner(handle_call, 'mine').start()\n")
    write("shop/broken.py", "\nimport nowhere_to_be_found\n")


@pytest.mark.usefixtures("package")
def test_the_runner_of_a_module() -> None:
    assert load_runner("shop.agents:runner").agent_id == "mine"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("shop.agents", "'shop.agents' is not MODULE:RUNNER: give both"),
        ("shop.agents:", "'shop.agents:' is not MODULE:RUNNER"),
        (":runner", "':runner' is not MODULE:RUNNER"),
        ("shop/agents.py:runner", "shop/agents.py is a file: give its module, as in `unpod run shop.agents:runner`"),
        ("shop.agents:other", "other is not there in shop.agents: it has runner"),
        ("shop.agents:NUMBER", "NUMBER is not an AgentRunner in shop.agents: it has runner"),
        ("shop:runner", "runner is not there in shop: define it there: runner = AgentRunner(...)"),
        ("shop.nothing:runner", "there is no module shop.nothing"),
        ("nothing.at.all:runner", "there is no module nothing.at.all"),
        ("shop.eager:runner", "shop.eager starts a runner when it is imported: put that under `if __name__"),
        ("shop.broken:runner", "shop/broken.py:2: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ],
)
def test_modules_and_runners_that_are_wrong(target: str, text: str) -> None:
    assert run_problem(target).startswith(text)
