"""The developer's control surface for one live call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, TypeVarTuple, Unpack, overload

from msgspec.structs import replace

from unpod.adapters.wrapping import DialogMachine
from unpod.core import commands as cmd
from unpod.core import metrics
from unpod.core.metrics import CallMetrics
from unpod.core.replay.resume import OnResume
from unpod.core.state import Exchange
from unpod.errors import SessionClosed, UnsupportedControl
from unpod.session import hook_types as h
from unpod.session.hooks import HookFunction
from unpod.session.issuing import OVER
from unpod.session.outcomes import CommandHandle
from unpod.session.recording import Recording

if TYPE_CHECKING:
    from unpod.session.driver import Driver
    from unpod.session.kernel import SessionKernel

logger = logging.getLogger("unpod.session")

F = TypeVar("F", bound=HookFunction)
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class MetricsTracker:
    """The call's figures, folded from its log: the same in any process that reads it."""

    def __init__(self, kernel: SessionKernel) -> None:
        self._kernel = kernel

    def live(self) -> CallMetrics:
        """Return a snapshot, during the call or after it."""
        state = self._kernel.state
        return metrics.snapshot(state.metrics, state.duration_s(self._kernel.clock.now()))


class Session:
    """One live call. Every verb is stored as a command, and performed by the bridge that holds the call's line.

    A verb returns at once, with a handle: what becomes of the command can be waited for, and need not be.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kernel = driver.kernel
        self.data: dict[str, Any] = {}
        """A place for whatever belongs to this call."""
        self.recording = Recording(driver)
        self.metrics = MetricsTracker(driver.kernel)
        self._steps = driver.steps

    def __repr__(self) -> str:
        return f"<Session {self.session_id}>"

    @property
    def session_id(self) -> str:
        """The id by which the call is known outside."""
        return self._kernel.ownership.session_id

    # --- speaking -----------------------------------------------------------------------------------------------------

    async def say(self, text: str) -> CommandHandle:
        """Speak `text` verbatim; returns at once, but a flood has to wait. After the call's end it does nothing.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
        """
        if not text:
            return self._kernel.outcomes.known("ignored", "there is nothing to say")
        if not await self._may("say"):
            return self._too_late()
        self._can("agent.say")
        return self._driver.perform(cmd.Say(text=text))

    async def interrupt(self) -> CommandHandle:
        """Stop speaking. A reply that is open ends here; a text that waits for its answer still gets it.

        With no reply open, what is playing is stopped if the speech worker can do that; else nothing happens.
        """
        return self._driver.perform(cmd.Interrupt()) if await self._may("interrupt") else self._too_late()

    async def set_filler(self, text: str) -> CommandHandle:
        """Set the phrase that the caller hears when the adapter takes its time; an empty one sets none.

        Raises:
            UnsupportedControl: the speech worker can neither take fillers nor speak phrases.
        """
        if not await self._may("set_filler"):
            return self._too_late()
        if "agent.filler" not in self._kernel.state.negotiated:
            self._can("agent.say")
        return self._driver.perform(cmd.SetFiller(text=text))

    # --- where the call goes ------------------------------------------------------------------------------------------

    async def transfer(
        self,
        target: str,
        *,
        transfer_type: cmd.TransferType = "number",
        mode: cmd.TransferMode = "cold",
        announcement: str | None = None,
    ) -> CommandHandle:
        """Connect the caller to a number (E.164), an agent or a human queue.

        After a cold transfer nothing more is said, and a second one does nothing. Once the caller is connected, `run()`
        returns `transferred`; where the worker refuses it, an `error` hook is told `transfer_refused`, and the session
        goes on. After a warm transfer the session goes on until the caller is connected.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
            SessionClosed: the call is over.
            ValueError: `target` is empty, or there is no such type or mode.
        """
        if not target or transfer_type not in ("number", "agent", "human") or mode not in ("cold", "warm"):
            msg = "transfer() needs a target, a transfer_type of number, agent or human, and a mode of cold or warm"
            raise ValueError(msg)
        state = self._kernel.state
        if state.ending == "transferred" and state.ended is None:
            logger.info("session %s: transfer() came while the call is being transferred", self.session_id)
            return self._kernel.outcomes.known("ignored", "the call is being transferred")
        self._check("transfer", "agent.transfer")
        command = cmd.Transfer(transfer_type=transfer_type, target=target, mode=mode, announcement=announcement)
        return self._driver.perform(command)

    async def transfer_to_human(
        self, queue: str, *, mode: cmd.TransferMode = "cold", announcement: str | None = None
    ) -> CommandHandle:
        """Connect the caller to a queue of humans; as `transfer`."""
        return await self.transfer(queue, transfer_type="human", mode=mode, announcement=announcement)

    async def transfer_to_agent(
        self, agent_id: str, *, mode: cmd.TransferMode = "cold", announcement: str | None = None
    ) -> CommandHandle:
        """Connect the caller to another agent; as `transfer`."""
        return await self.transfer(agent_id, transfer_type="agent", mode=mode, announcement=announcement)

    async def end(self, reason: str = "completed") -> CommandHandle:
        """Hang up once the open reply has been spoken to its end. A second call does nothing.

        What the caller says after it is not answered, and a reply that has not begun is not waited for.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
        """
        if not self._open("end") or self._kernel.state.ending is not None:
            return self._too_late()
        self._can("agent.end_call")
        return self._driver.perform(cmd.EndCall(reason=reason))

    # --- who takes part -----------------------------------------------------------------------------------------------

    async def dispatch(self, agent_id: str, *, metadata: Mapping[str, object] | None = None) -> CommandHandle:
        """Bring another agent into the call, with `metadata` for it; this one goes on.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
            SessionClosed: the call is over.
        """
        self._check("dispatch", "agent.dispatch")
        return self._driver.perform(cmd.DispatchAgent(agent_id=agent_id, metadata=dict(metadata or {})))

    async def add_participant(
        self, participant_type: str, *, config: Mapping[str, object] | None = None
    ) -> CommandHandle:
        """Bring a participant into the call, of a type that the speech worker knows, with what that needs.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
            SessionClosed: the call is over.
        """
        self._check("add_participant", "agent.add_participant")
        command = cmd.AddParticipant(participant_type=participant_type, config=dict(config or {}))
        return self._driver.perform(command)

    async def remove_participant(self, participant_id: str) -> CommandHandle:
        """Take a participant out of the call.

        Raises:
            UnsupportedControl: the speech worker did not negotiate it.
            SessionClosed: the call is over.
        """
        self._check("remove_participant", "agent.remove_participant")
        return self._driver.perform(cmd.RemoveParticipant(participant_id=participant_id))

    # --- what must not happen twice -----------------------------------------------------------------------------------

    @overload
    async def step(self, name: str, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def step(
        self, name: str, function: Callable[[Unpack[Ts]], Awaitable[T]], /, *args: *Ts, timeout_s: float | None
    ) -> T: ...
    @overload
    async def step(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(  # type: ignore[misc]  # beside `P.kwargs` no keyword of our own can be named
        self,
        name: str,
        function: Callable[..., object],
        /,
        *args: object,
        timeout_s: float | None = None,
        **kwargs: object,
    ) -> object:
        """Run a side effect, record what it returns, and return it; a takeover returns what is recorded.

        `function`, sync or async, may take an `idempotency_key`: the same in every process, to be passed on to a third
        party, since a step whose process dies inside it runs again. Give it a default, so that a type checker does not
        ask you for it. An async one is cancelled after `timeout_s`, and has failed with `TimeoutError` then.

        Its result must be what JSON can hold, and is returned once it is stored: while NATS is away, that waits. It
        comes back from JSON in the type that the function's annotation promises; without one, as JSON has it.

        Raises:
            StepFailed: it raised, now or in the process that ran it.
            TypeError: its result cannot be written as JSON.
            ValueError: `timeout_s` is not more than 0.
            LogError: the result could not be stored.
        """
        return await self._steps.run(name, function, args, kwargs, _positive("timeout_s", timeout_s))

    def spawn(self, name: str, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run a coroutine beside the call until the call is over; its verbs count as those of the handler `name`.

        After a takeover it begins anew. One that raises is logged and recorded; the call goes on.
        """
        return self._steps.spawn(name, work)

    @property
    def replaying(self) -> bool:
        """Whether what happens now has happened before, in a runner that this one has taken the call over from."""
        return self._kernel.replayed is not None

    def now(self) -> float:
        """Return the log's time in seconds since 1970: the same when a takeover goes through the past again."""
        return self._kernel.now()

    # --- what happens -------------------------------------------------------------------------------------------------

    @overload
    def on(self, event: h.TextEvent, *, replay: bool | None = None) -> Callable[[h.TextHook], h.TextHook]: ...
    @overload
    def on(self, event: h.BareEvent, *, replay: bool | None = None) -> Callable[[h.BareHook], h.BareHook]: ...
    @overload
    def on(self, event: h.ToolEvent, *, replay: bool | None = None) -> Callable[[h.ToolHook], h.ToolHook]: ...
    @overload
    def on(self, event: h.FrameEvent, *, replay: bool | None = None) -> Callable[[h.FrameHook], h.FrameHook]: ...
    @overload
    def on(
        self, event: Literal["silence"], *, replay: bool | None = None
    ) -> Callable[[h.SilenceHook], h.SilenceHook]: ...
    @overload
    def on(self, event: Literal["error"], *, replay: bool | None = None) -> Callable[[h.ErrorHook], h.ErrorHook]: ...
    @overload
    def on(
        self, event: Literal["llm_call"], *, replay: bool | None = None
    ) -> Callable[[h.ModelCallHook], h.ModelCallHook]: ...
    @overload
    def on(
        self, event: Literal["turn_complete"], *, replay: bool | None = None
    ) -> Callable[[h.TurnHook], h.TurnHook]: ...
    def on(self, event: str, *, replay: bool | None = None) -> Callable[[F], F]:
        """Return a decorator that registers a hook, sync or async; several per event run in order of registration.

        When another runner takes the call over, hooks on what the caller did run again, and others do not; `replay`
        overrides that.

        Raises:
            UnknownEvent: there is no such event; the text lists those there are.
        """
        return self._kernel.hooks.on(event, replay=replay)

    async def run(self) -> str:
        """Keep the call going until it is over, and return the reason of its end.

        Lines after it are post-call cleanup.
        """
        return await self._driver.run()

    @property
    def dialog_machine(self) -> DialogMachine | None:
        """The adapter, as it was given: anything with the methods of `DialogAdapter`, or what can be made one.

        Raises:
            TypeError: on assignment of anything else; the text says what is missing.
        """
        return self._driver.adapter

    @dialog_machine.setter
    def dialog_machine(self, adapter: DialogMachine | None) -> None:
        self._driver.use_adapter(adapter)

    @property
    def history(self) -> tuple[Exchange, ...]:
        """The turns that are completed, each with what the caller said and heard, and the tools that were used for it.

        It is folded from the log: after a takeover it is the same, but for texts that were not to be recorded (None).
        """
        state = self._kernel.state
        return tuple(replace(turn, tools=state.tools.get(turn.turn, ())) for turn in state.history)

    @property
    def silence_timeout_s(self) -> float | None:
        """Seconds without speech after which `silence` fires, and at each multiple; None switches it off."""
        return self._kernel.settings.silence_timeout_s

    @silence_timeout_s.setter
    def silence_timeout_s(self, seconds: float | None) -> None:
        self._driver.set(silence_timeout_s=_positive("silence_timeout_s", seconds))

    @property
    def max_duration_s(self) -> float | None:
        """Seconds after which the call is ended with `max_duration`; None sets no limit."""
        return self._kernel.settings.max_duration_s

    @max_duration_s.setter
    def max_duration_s(self, seconds: float | None) -> None:
        self._driver.set(max_duration_s=_positive("max_duration_s", seconds))

    @property
    def on_resume(self) -> OnResume:
        """What becomes of a reply that its runner's death has cut off: `continue`, `apologise` or `repeat`."""
        return self._kernel.settings.on_resume

    @on_resume.setter
    def on_resume(self, policy: OnResume) -> None:
        if policy not in ("continue", "apologise", "repeat"):
            msg = f"on_resume is {policy!r}: give one of continue, apologise, repeat"
            raise ValueError(msg)
        self._driver.set(on_resume=policy)

    @property
    def on_adapter_error(self) -> str | None:
        """What becomes of a reply whose adapter has failed: a phrase ends it, `end` ends the call, None neither."""
        return self._kernel.settings.on_adapter_error

    @on_adapter_error.setter
    def on_adapter_error(self, policy: str | None) -> None:
        self._driver.set(on_adapter_error=_text("on_adapter_error", policy))

    @property
    def interruption_note(self) -> str:
        """What the adapter is told when the caller cuts in between turns and nobody knows what was heard."""
        return self._kernel.settings.interruption_note

    @interruption_note.setter
    def interruption_note(self, note: str) -> None:
        self._driver.set(interruption_note=note)

    # --- checks -------------------------------------------------------------------------------------------------------

    async def _may(self, verb: str) -> bool:
        """Whether the call still goes on, once there is room for a verb that can be used any number of times."""
        issuing = self._driver.issuing
        await (issuing.late() if self._kernel.over else issuing.room())
        return self._open(verb)

    def _open(self, verb: str) -> bool:
        """Whether the call still goes on; a verb that comes too late is a race that nobody can win, so it only logs."""
        if self._kernel.over:
            logger.debug("session %s: %s() came after the call's end", self.session_id, verb)
            return False
        return True

    def _too_late(self) -> CommandHandle:
        return self._kernel.outcomes.known("ignored", OVER)

    def _check(self, name: str, verb: str) -> None:
        """Refuse what cannot be done any more, or at all."""
        state = self._kernel.state
        if state.over or state.ending is not None:
            msg = f"{name}: {OVER}"
            raise SessionClosed(msg)
        self._can(verb)

    def _can(self, verb: str) -> None:
        if verb not in self._kernel.state.negotiated:
            raise UnsupportedControl(verb, "the speech worker of this call did not negotiate it")


def _positive(name: str, seconds: float | None) -> float | None:
    if seconds is not None and seconds <= 0:
        msg = f"{name} must be more than 0 seconds, or None"
        raise ValueError(msg)
    return seconds


def _text(name: str, given: object) -> str | None:
    if given is None or isinstance(given, str):
        return given
    msg = f"{name} is a string or None, not {type(given).__name__}"
    raise TypeError(msg)
