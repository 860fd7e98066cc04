"""`unpod ps` and `unpod sessions`: live calls from outside. What a command does is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Final, TypeVar

import click

if TYPE_CHECKING:
    from unpod_cli.sessions import Verb, Where

F = TypeVar("F", bound=Callable[..., object])

_SECONDS: Final = click.FloatRange(min=0.1)
_COUNTS: Final = click.IntRange(1, 10_000)
_STATES: Final = click.Choice(["active", "ended", "all"])
_TYPES: Final = click.Choice(["sip", "agent", "human", "webrtc", "livekit"])


def _example(*lines: str) -> str:
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)]) + "\n"


def _reach(command: F) -> F:
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)
    return click.option("--nats-url", metavar="URL", help="The fleet's NATS server; else UNPOD_NATS_URL or NATS_URL.")(
        command
    )


def _control(command: Callable[..., Verb]) -> Callable[..., None]:
    """Make a command of what says which control to send: it is sent, and answered."""

    @click.option("--actor", metavar="NAME", help="Who acts, for the record; else your user name.")
    @click.option("--command-id", metavar="ID", help="The same one again is done once.")
    @_reach
    @wraps(command)
    def apply(
        *, nats_url: str | None, actor: str | None, command_id: str | None, as_json: bool, **arguments: object
    ) -> None:
        from unpod_cli.sessions import apply as send  # noqa: PLC0415 - slow to import

        send(_where(nats_url, actor), command(**arguments), command_id, as_json=as_json)

    return apply


def _where(nats_url: str | None, actor: str | None = None) -> Where:
    from unpod_cli.sessions import Where  # noqa: PLC0415 - slow to import

    return Where(nats_url=nats_url, actor=actor)


@click.command(
    short_help="List the live sessions of the fleet.", epilog=_example("unpod ps --agent my-agent", "unpod ps --watch")
)
@click.option("--agent", metavar="ID", help="Only sessions of this agent.")
@click.option("--owner", metavar="ID", help="Only sessions that this runner has.")
@click.option("--limit", type=_COUNTS, default=100, show_default=True, help="At most so many, newest first.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=_SECONDS, default=2.0, show_default=True, help="Seconds between two looks.")
@_reach
def ps(
    *, agent: str | None, owner: str | None, limit: int, watch: bool, interval: float, nats_url: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """List the live sessions of the fleet: agent, state, age, turns, and which runner owns each.

    With --watch and --json, each look is one line.
    """
    from unpod_cli.sessions import Filter, show_live  # noqa: PLC0415 - slow to import

    show_live(
        _where(nats_url), Filter("active", agent, owner, limit), every_s=interval if watch else None, as_json=as_json
    )


@click.group(short_help="Look at live calls, and act on them.", epilog=_example("unpod sessions say ID 'One moment.'"))
def sessions() -> None:
    """Look at sessions, and act on live ones.

    A control exits with 0 once it is applied, and with 1, and the reason, where it is not.
    """


@sessions.command("list", epilog=_example("unpod sessions list --status ended --limit 10"))
@click.option("--agent", metavar="ID", help="Only sessions of this agent.")
@click.option("--status", type=_STATES, default="all", show_default=True, help="Only sessions whose call is so.")
@click.option("--limit", type=_COUNTS, default=100, show_default=True, help="At most so many, newest first.")
@_reach
def list_sessions(*, agent: str | None, status: str, limit: int, nats_url: str | None, as_json: bool) -> None:
    """List sessions, newest first."""
    from unpod_cli.sessions import Filter, show_list  # noqa: PLC0415 - slow to import

    show_list(_where(nats_url), Filter(None if status == "all" else status, agent, None, limit), as_json=as_json)


@sessions.command(epilog=_example("unpod sessions show ID"))
@click.argument("session_id", metavar="ID")
@_reach
def show(*, session_id: str, nats_url: str | None, as_json: bool) -> None:
    """Show one session: its state, who has it, and what was said."""
    from unpod_cli.sessions import show_one  # noqa: PLC0415 - slow to import

    show_one(_where(nats_url), session_id, as_json=as_json)


@sessions.command(
    short_help="Follow what happens, until the call is over.",
    epilog=_example("unpod sessions tail ID", "unpod sessions tail ID --now --json"),
)
@click.argument("session_id", metavar="ID")
@click.option("--now", is_flag=True, help="Only what happens from now on.")
@_reach
def tail(*, session_id: str, now: bool, nats_url: str | None, as_json: bool) -> None:
    """Follow a session's events until its call is over; with --json, one a line."""
    from unpod_cli.sessions import follow  # noqa: PLC0415 - slow to import

    follow(_where(nats_url), session_id, since="now" if now else "start", as_json=as_json)


@sessions.command(epilog=_example("unpod sessions end ID --reason completed"))
@click.argument("session_id", metavar="ID")
@click.option("--reason", help="The call's end reason; else completed.")
@_control
def end(*, session_id: str, reason: str | None) -> Verb:
    """Hang up, once what is being said is said."""
    return lambda client, command_id: client.end(session_id, reason, command_id=command_id)


@sessions.command(
    short_help="Connect the caller to somebody else.",
    epilog=_example("unpod sessions transfer ID sip +15551230000 --warm", "unpod sessions transfer ID human support"),
)
@click.argument("session_id", metavar="ID")
@click.argument("to_type", metavar="TYPE", type=_TYPES)
@click.argument("target", metavar="TARGET")
@click.option("--warm", is_flag=True, help="The agent stays until both have spoken.")
@click.option("--handoff-ms", type=int, default=0, help="How long both speak, of a warm transfer.")
@_control
def transfer(*, session_id: str, to_type: str, target: str, warm: bool, handoff_ms: int) -> Verb:
    """Connect the caller to a number (sip), an agent, or a queue of people (human)."""
    config = {_KEYS.get(to_type, "id"): target}
    return lambda client, command_id: client.transfer(
        session_id,
        to_type,
        config,
        "warm" if warm else "cold",
        warm_handoff_ms=handoff_ms,
        command_id=command_id,
    )


_KEYS: Final = {"sip": "number", "agent": "agent_id", "human": "queue"}


@sessions.command(epilog=_example("unpod sessions merge PRIMARY OTHER"))
@click.argument("primary", metavar="PRIMARY")
@click.argument("secondaries", metavar="OTHER...", nargs=-1, required=True)
@_control
def merge(*, primary: str, secondaries: tuple[str, ...]) -> Verb:
    """Join other sessions' calls into a primary one."""
    return lambda client, command_id: client.merge(primary, secondaries, command_id=command_id)


@sessions.command(epilog=_example("unpod sessions say ID 'One moment, please.'"))
@click.argument("session_id", metavar="ID")
@click.argument("text")
@_control
def say(*, session_id: str, text: str) -> Verb:
    """Speak a text to the caller, verbatim."""
    return lambda client, command_id: client.say(session_id, text, command_id=command_id)


@sessions.command(epilog=_example("unpod sessions interrupt ID"))
@click.argument("session_id", metavar="ID")
@_control
def interrupt(*, session_id: str) -> Verb:
    """Stop the reply that is being spoken."""
    return lambda client, command_id: client.interrupt(session_id, command_id=command_id)


@sessions.command(
    short_help="Tell the adapter what the caller does not hear.",
    epilog=_example("unpod sessions whisper ID 'Offer a refund.'"),
)
@click.argument("session_id", metavar="ID")
@click.argument("text")
@_control
def whisper(*, session_id: str, text: str) -> Verb:
    """Tell the agent's adapter something that the caller does not hear."""
    return lambda client, command_id: client.whisper(session_id, text, command_id=command_id)


@sessions.command(epilog=_example("unpod sessions pause ID", "unpod sessions pause ID --recording"))
@click.argument("session_id", metavar="ID")
@click.option("--recording", is_flag=True, help="Pause the recording, not the agent.")
@_control
def pause(*, session_id: str, recording: bool) -> Verb:
    """Let the agent answer nothing."""
    return lambda client, command_id: (client.pause_recording if recording else client.pause)(
        session_id, command_id=command_id
    )


@sessions.command(
    short_help="Let the agent answer again.",
    epilog=_example("unpod sessions resume ID", "unpod sessions resume ID --recording"),
)
@click.argument("session_id", metavar="ID")
@click.option("--recording", is_flag=True, help="Resume the recording, not the agent.")
@_control
def resume(*, session_id: str, recording: bool) -> Verb:
    """Let the agent answer again; its adapter is told what was said meanwhile."""
    return lambda client, command_id: (client.resume_recording if recording else client.resume)(
        session_id, command_id=command_id
    )


@sessions.command(
    short_help="Take the agent's place.", epilog=_example("unpod sessions takeover ID --reason 'angry caller'")
)
@click.argument("session_id", metavar="ID")
@click.option("--reason", help="Why, for the record.")
@_control
def takeover(*, session_id: str, reason: str | None) -> Verb:
    """Take the agent's place: `say` speaks to the caller, `tail` shows what they say."""
    return lambda client, command_id: client.takeover(session_id, reason, command_id=command_id)


@sessions.command(short_help="Give the call back to the agent.", epilog=_example("unpod sessions handback ID"))
@click.argument("session_id", metavar="ID")
@_control
def handback(*, session_id: str) -> Verb:
    """Give the call back to the agent, whose adapter is told what was said."""
    return lambda client, command_id: client.handback(session_id, command_id=command_id)


ALL: Final = (ps, sessions)
