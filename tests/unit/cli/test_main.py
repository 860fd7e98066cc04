from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from unpod_cli import commands
from unpod_cli.failure import Failure, extras
from unpod_cli.main import cli, main

NAMES = sorted(cli.commands)


def test_the_commands() -> None:
    assert {"bridge", "demo", "dev", "orchestrator", "run"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert f"unpod {name} " in out.partition("Example")[2]


def test_the_list_cuts_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    listed = alone.partition("Commands:")[2]
    assert all(name in listed for name in NAMES)
    assert "..." not in listed


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"unpod \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "Error: No such command 'nonsense'; see unpod --help\n"),
        (["--nonsense"], "Error: No such option '--nonsense'; see unpod --help\n"),
        (["dev"], "Error: Missing argument 'AGENT.py[:NAME]'; see unpod dev --help\n"),
        (
            ["run", "nonsense"],
            "Error: 'nonsense' is not MODULE:RUNNER: give both, as in `unpod run myapp.agents:runner`\n",
        ),
        (["dev", "nowhere.py"], "Error: there is no file nowhere.py: give the path of the agent's Python file\n"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == line
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["orchestrator", "--port", "70000"], ["demo", "--speed", "0"]])
def test_numbers_that_cannot_be(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bridge_without_a_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNPOD_API_KEY", raising=False)
    assert main(["bridge"]) == 2
    assert capsys.readouterr().err == "Error: UNPOD_API_KEY is not set: export the key of your Unpod account\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Failure("it\nfailed"), 1, "Error: it failed\n"),
        (Failure("it is wrong", status=2), 2, "Error: it is wrong\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (click.Abort(), 130, ""),
        (click.FileError("x.txt", "no such file"), 1, "Error: Could not open file 'x.txt': no such file\n"),
    ],
)
def test_how_a_command_ends(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(commands.demo, "callback", lambda **_: fail())
    assert main(["demo"]) == status
    assert capsys.readouterr().err == line


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(Failure, match=r'aiohttp is not installed: pip install "unpod\[dev\]"'), extras():
        raise ModuleNotFoundError("No module named 'aiohttp.web'", name="aiohttp.web")
    with pytest.raises(ModuleNotFoundError), extras():
        raise ModuleNotFoundError("No module named 'another'", name="another")


def test_help_imports_nothing_that_is_slow() -> None:
    heavy = "asyncio", "aiohttp", "rich", "nats", "prompt_toolkit", "watchfiles", "unpod.runner", "unpod_bridge"
    look = f"print([name for name in {heavy} if name in sys.modules])"
    code = f"import sys; from unpod_cli.main import main; main(['--help']); {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
