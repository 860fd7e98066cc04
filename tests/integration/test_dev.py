"""`unpod dev`, as a user runs it: from a pipe, and in a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.pty_rig import Piped, Terminal, alive, descendants, environment, left_in, run

HELLO = Path(__file__).parents[2] / "examples" / "hello.py"
FAST = ("--speed", "20")
ENTER, CTRL_C, CTRL_D = "\r", "\x03", "\x04"

AGENT = """
from unpod import AgentRunner
from unpod.adapters import ScriptedAdapter

async def handle_call(ctx):
    session = ctx.session
    story = "Once upon a time " + "there was a king, " * 20
    session.dialog_machine = ScriptedAdapter([("story", story)], fallback={reply!r})

    @session.on("user_turn")
    async def on_user_turn(text):
        print("heard", text)
        if text == "transfer":
            await session.transfer_to_human(queue="sales")
        if text == "end":
            await session.end("no_response")
        if text == "die":
            import os
            os._exit(7)

    @session.on("interruption")
    async def on_interruption():
        print("cut off")

    await session.say("Hello!")
    await session.run()

runner = AgentRunner(handle_call, agent_id="tester", nats_url="nats://production.example:4222", dev_mode=True)
if __name__ == "__main__":
    runner.start()
"""

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    path = tmp_path / "agent.py"

    def put(source: str) -> Path:
        path.write_text(source)
        return path

    return put


def agent(reply: str = "I see.") -> str:
    return AGENT.format(reply=reply)


# --- from a pipe ------------------------------------------------------------------------------------------------------


async def test_each_line_of_a_pipe_is_a_turn() -> None:
    done = await run("dev", str(HELLO), *FAST, given="hi\nbye\n")
    assert done.out.splitlines() == [
        "· connected",
        "agent  Hi, I'm Alex. How can I help?",
        "you    hi",
        "agent  You said: hi",
        "you    bye",
        "agent  You said: bye",
        "■ the caller hung up",
        "hello.py │ 2 turns",
    ]
    assert (done.status, done.err) == (0, "")


async def test_an_empty_input_hangs_up() -> None:
    done = await run("dev", str(HELLO), *FAST)
    assert done.status == 0
    assert done.out.splitlines()[-2:] == ["■ the caller hung up", "hello.py │ 0 turns"]


async def test_a_line_without_an_end_and_blank_ones() -> None:
    done = await run("dev", str(HELLO), *FAST, given="\n  \nlast")
    assert "agent  You said: last" in done.out
    assert done.out.count("you ") == 1


async def test_commands_from_a_pipe(save: Save) -> None:
    lines = ["hi", "/log", "/metrics", "/help", "/nonsense", "/hangup", "/hangup", "/call", "again", "/quit", "never"]
    done = await run("dev", str(save(agent())), *FAST, given="\n".join(lines))
    assert done.status == 0
    assert re.search(r"bridge +\d+ +evt.user.text +“hi”", done.out)
    assert re.search(r"turns +1\n", done.out)
    assert re.search("/metrics +show the metrics of the call", done.out)
    assert "there is no command /nonsense" in done.out
    assert done.out.count("· connected") == done.out.count("■ the caller hung up") == 2
    assert "· there is no call: /call places one" in done.out
    assert "you    again\nagent.py │ heard again\nagent  I see." in done.out
    assert "never" not in done.out


async def test_for_programs(save: Save) -> None:
    done = await run("dev", str(save(agent())), *FAST, "--json", given="hi\n/metrics\n")
    told = [json.loads(line) for line in done.out.splitlines()]
    spoken = [(line["who"], line["text"]) for line in told if line["event"] == "spoken"]
    assert spoken == [("agent", "Hello!"), ("caller", "hi"), ("agent", "I see.")]
    assert next(line for line in told if line["event"] == "data")["data"]["turn_count"] == 1
    assert {"event": "output", "who": "agent.py", "text": "heard hi"} in told
    assert told[-1]["event"] == "over"


async def test_what_is_said_after_the_end_is_not_lost_quietly(save: Save) -> None:
    done = await run("dev", str(save(agent())), *FAST, given="transfer\nhello?\n")
    assert done.status == 1
    assert "■ the caller was connected: sales" in done.out
    assert "· not said, for the call is over: hello?" in done.out


async def test_an_agent_that_dies_on_a_pipe(save: Save) -> None:
    async with await Piped.start("dev", str(save(agent())), *FAST) as dev:
        dev.type("die")
        done = await dev.ended()
        assert done.status == 1
        assert done.out.splitlines()[-1] == "Error: the agent's process has ended (status 7): heard die"


async def test_an_entrypoint_that_raises(save: Save) -> None:
    done = await run("dev", str(save("async def handle_call(ctx):\n    raise ValueError('boom')\n")), *FAST)
    assert "agent.py │ ValueError: boom" in done.out
    assert "■ the agent ended the call: error" in done.out


async def test_an_agent_without_a_brain_is_told_so(save: Save) -> None:
    source = "async def handle_call(ctx):\n    await ctx.session.run()\n"
    done = await run("dev", str(save(source)), *FAST, given="hi\nhello?\n")
    assert done.out.count("assign an adapter to session.dialog_machine") == 1


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def f(:\n", "Error: agent.py:1: SyntaxError: invalid syntax\n"),
        ("x = 1\n\nimport nowhere\n", "Error: agent.py:3: ModuleNotFoundError: No module named 'nowhere'; install it"),
        ("async def a(ctx): ...\nasync def b(ctx): ...\n", "Error: agent.py has 2 possible entrypoints: a, b; choose"),
    ],
)
async def test_a_file_that_cannot_be_used(save: Save, source: str, line: str) -> None:
    path = save(source)
    done = await run("dev", path.name, cwd=path.parent)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(line)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_quietly(tmp_path: Path, number: int, status: int) -> None:
    async with await Piped.start("dev", str(HELLO), *FAST, env=environment(TMPDIR=str(tmp_path))) as dev:
        await dev.until("How can I help?")
        children = descendants(dev.process.pid)
        dev.process.send_signal(number)
        done = await dev.ended()
        assert done.status == status
        assert "Traceback" not in done.out
        assert alive(children) == set()
        assert left_in(tmp_path) == []


# --- in a terminal ----------------------------------------------------------------------------------------------------


async def test_a_conversation_in_a_terminal(save: Save) -> None:
    async with await Terminal.start("dev", str(save(agent())), *FAST) as terminal:
        await terminal.until("You are the caller")
        await terminal.until("agent  Hello!")
        terminal.say("hi there")
        await terminal.until("you    hi there")
        await terminal.until("agent.py │ heard hi there")
        await terminal.until("agent  I see.")
        terminal.say("/log")
        await terminal.until("evt.user.text")
        await terminal.until("“hi there”")
        terminal.say("/metrics")
        await terminal.until("turns           1")
        terminal.say("/help")
        await terminal.until("Ctrl-D does, too")
        terminal.say("/hangup")
        await terminal.until("■ the caller hung up")
        terminal.say("hello?")
        await terminal.until("there is no call: /call places one")
        terminal.say("/call")
        await terminal.until("agent  Hello!")
        terminal.press(CTRL_D)
        assert await terminal.ended() == 0


async def test_the_answer_streams_and_ctrl_c_cuts_in(save: Save) -> None:
    async with await Terminal.start("dev", str(save(agent())), "--speed", "2") as terminal:
        await terminal.until("agent  Hello!")
        terminal.say("tell me a story")
        await terminal.until("Once")  # what is being said shows while it is said
        await terminal.until("king")
        terminal.press(CTRL_C)
        shown = await terminal.until("✂ [unheard: ")
        assert "king, there was a king, there was a king, there was a king, there was a king" not in shown
        await terminal.until("agent.py │ cut off")
        terminal.say("go on")
        await terminal.until("agent  I see.")
        terminal.say("/log")
        await terminal.until("cuts in after hearing “Once upon a")
        terminal.say("/quit")
        assert await terminal.ended() == 0


async def test_ctrl_c_while_nobody_speaks(save: Save) -> None:
    async with await Terminal.start("dev", str(save(agent())), *FAST) as terminal:
        await terminal.until("agent  Hello!")
        terminal.press("half a line")
        await terminal.until("half a line")
        terminal.press(CTRL_C)  # forgets the line
        terminal.press(CTRL_C)
        await terminal.until("Ctrl-C again leaves")
        terminal.say("hi")  # thinks better of it
        await terminal.until("agent  I see.")
        terminal.press(CTRL_C)
        await terminal.until("Ctrl-C again leaves")
        terminal.press(CTRL_C)
        assert await terminal.ended() == 0
        assert "you    hi" in terminal.text


async def test_saving_the_file_reloads_it(save: Save) -> None:
    async with await Terminal.start("dev", str(save(agent("The old one."))), *FAST) as terminal:
        await terminal.until("agent  Hello!")
        save(agent("The new one."))
        await terminal.until("saved: the next call has the new code")
        terminal.say("first")
        await terminal.until("agent  The old one.")  # a call in progress keeps its code
        terminal.say("/hangup")
        await terminal.until("■ the caller hung up")
        terminal.say("/call")
        await terminal.until("agent  Hello!")
        terminal.say("second")
        await terminal.until("agent  The new one.")
        terminal.say("/quit")
        assert await terminal.ended() == 0
        assert "ending at once" not in terminal.text


async def test_a_save_that_does_not_import_changes_nothing(save: Save) -> None:
    path = save(agent("The old one."))
    async with await Terminal.start("dev", path.name, *FAST, cwd=path.parent) as terminal:
        await terminal.until("agent  Hello!")
        save("def f(:\n")
        await terminal.until("not reloaded: agent.py:1: SyntaxError: invalid syntax; the code of before goes on")
        terminal.say("/hangup")
        await terminal.until("■ the caller hung up")
        terminal.say("/call")
        await terminal.until("agent  Hello!")
        terminal.say("first")
        await terminal.until("agent  The old one.")
        save(agent("The new one."))
        await terminal.until("saved: the next call has the new code")
        terminal.say("/quit")
        assert await terminal.ended() == 0


async def test_a_file_beside_it_that_it_imports_reloads_it_too(save: Save, tmp_path: Path) -> None:
    words = tmp_path / "words.py"
    words.write_text("HELLO = 'Good morning!'\n")
    written = words.stat().st_mtime_ns
    path = save(f"from words import HELLO\n{agent()}".replace('say("Hello!")', "say(HELLO)"))
    async with await Terminal.start("dev", str(path), *FAST) as terminal:
        await terminal.until("agent  Good morning!")
        words.write_text("HELLO = 'Good evening!'\n")
        os.utime(words, ns=(written, written))  # as long, and within the same second
        await terminal.until("saved: the next call has the new code")
        terminal.say("/hangup")
        await terminal.until("■ the caller hung up")
        terminal.say("/call")
        await terminal.until("agent  Good evening!")
        terminal.press(CTRL_D)
        assert await terminal.ended() == 0


async def test_an_agent_that_dies_in_a_terminal_is_started_again(save: Save) -> None:
    async with await Terminal.start("dev", str(save(agent())), *FAST) as terminal:
        await terminal.until("agent  Hello!")
        terminal.say("die")
        await terminal.until("the agent's process has ended (status 7)")
        await terminal.until("starting it again")
        terminal.say("/hangup")
        await terminal.until("■ the caller hung up")
        terminal.say("/call")
        await terminal.until("agent  Hello!")
        terminal.press(CTRL_D)
        assert await terminal.ended() == 0


async def test_nothing_is_left_after_a_terminal(save: Save, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with await Terminal.start("dev", str(save(agent())), *FAST, env=environment(TMPDIR=str(scratch))) as terminal:
        await terminal.until("agent  Hello!")
        children = descendants(terminal.pid)
        assert len(children) >= 3
        terminal.say("/quit")
        assert await terminal.ended() == 0
        assert alive(children) == set()
        assert left_in(scratch) == []
