"""What `unpod dev` does: one agent that is exchanged when its file is saved, one call at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final

from unpod_cli import call_log, figures
from unpod_cli.agent_file import split_target
from unpod_cli.dev.screen import Screen
from unpod_cli.dev.watch import FileWatcher
from unpod_cli.failure import Failure
from unpod_cli.stack import Agent, AgentUnusable, Stack
from unpod_cli.transcript import CallOver, Transcriber
from unpod_orchestrator import CallOverError, CallRefused, LocalCall

_DEADLINE_MS: Final = 5_000
_LEAVE_S: Final = 5.0
_REVIVALS: Final = 3
_BUSY: Final = ("speaking", "thinking")


class DevSession:
    """The user's side of the system: verbs for the caller's part, and the agent's life behind them.

    `restart`: an agent whose process dies is started again; else that is the end.
    """

    def __init__(self, stack: Stack, target: str, screen: Screen, *, restart: bool) -> None:
        self._stack = stack
        self._restart = restart
        self._target = target
        self._screen = screen
        path, _ = split_target(target)
        self.file = path
        self._watch = FileWatcher(path)
        self._agent: Agent | None = None
        self._former: list[Agent] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._exchanging = asyncio.Lock()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call: LocalCall | None = None

    # ------------------------------------------------------------------------------------------------- life and death

    async def open(self) -> None:
        """Start the agent; from now on, saving its file reloads it.

        Raises:
            AgentUnusable: its file cannot be used.
            Failure: the system does not come up.
        """
        self._take_over(await self._start())
        self._begin(self._reload_on_save())
        await asyncio.sleep(0)  # it looks from now on
        self._begin(self._mind_bridge())

    async def close(self) -> None:
        """Hang up, let the agent finish what it does after a call, and end everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hang_up()
        agents = [*self._former, *([] if self._agent is None else [self._agent])]
        await asyncio.gather(*(agent.stop(_LEAVE_S) for agent in agents))

    async def failed(self) -> None:
        """Return never; raise where it makes no sense to go on.

        Raises:
            Failure: the text says why.
        """
        await asyncio.shield(self._failure)

    async def _start(self) -> Agent:
        agent = await self._stack.start_agent(self._target, self.file.name)
        try:
            loaded = await self._stack.serving(agent)
        except BaseException:
            await agent.stop(0.0)
            raise
        self._watch.follow(loaded.files)
        return agent

    async def _mind(self, agent: Agent) -> None:
        try:
            await agent.death()
        except AgentUnusable as death:
            if agent is not self._agent:
                return
            self._agent = None
            await agent.stop(0.0)
            if not self._restart:
                self._fail(death)
                return
            async with self._exchanging:
                if self._agent is None:  # else a save has brought a new one meanwhile
                    await self._revive(death)

    async def _revive(self, death: AgentUnusable) -> None:
        """Start an agent that has died; what has killed it may do that again."""
        for _ in range(_REVIVALS):
            self._screen.note(f"{death.message}; starting it again", bad=True)
            try:
                self._take_over(await self._start())
            except AgentUnusable as again:
                death = again
                if not death.died:
                    break
            except Failure as failure:
                self._fail(failure)
                return
            else:
                return
        self._screen.note(f"{death.message}; save it when it is mended", bad=True)

    async def _mind_bridge(self) -> None:
        try:
            await self._stack.bridge_death()
        except Failure as death:
            self._fail(death)

    def _fail(self, why: Failure) -> None:
        if not self._failure.done():
            self._failure.set_exception(why)

    # ----------------------------------------------------------------------------------------------------------- code

    async def _reload_on_save(self) -> None:
        async for files in self._watch.saves():
            names = ", ".join(sorted(file.name for file in files))
            async with self._exchanging:
                replaced = await self._replace()
            if replaced:
                self._screen.note(f"{names} saved: the next call has the new code")

    async def _replace(self) -> bool:
        """Start the agent from its file as it is now, and let the former one finish; return whether it could be."""
        try:
            agent = await self._start()
        except AgentUnusable as problem:
            kept = "the code of before goes on" if self._agent is not None else "save it again when it is mended"
            self._screen.note(f"not reloaded: {problem.message}; {kept}", bad=True)
            return False
        except Failure as failure:
            self._fail(failure)
            return False
        former = self._agent
        self._take_over(agent)
        if former is not None:
            self._former.append(former)
            await self._stack.drain(former)
            self._begin(self._see_off(former))
        return True

    def _take_over(self, agent: Agent) -> None:
        self._agent = agent
        self._begin(self._mind(agent))

    async def _see_off(self, agent: Agent) -> None:
        await agent.process.wait()
        self._former.remove(agent)
        await agent.stop(0.0)

    # ----------------------------------------------------------------------------------------------------------- call

    @property
    def busy(self) -> bool:
        """Whether the agent speaks, or owes an answer."""
        return self.call is not None and not self.call.over and (self.call.state in _BUSY or self.call.ends_owed > 0)

    @property
    def on_call(self) -> bool:
        """Whether there is a call that goes on."""
        return self.call is not None and not self.call.over

    async def place_call(self) -> bool:
        """Place a call, unless one goes on; return whether there is one then."""
        if self.on_call:
            self._screen.note("a call goes on; /hangup ends it")
            return True
        async with self._exchanging:  # an agent that is on its way is waited for
            loaded = None if self._agent is None else self._agent.loaded
        if loaded is None:
            self._screen.note("there is no agent that could take a call: mend its file and save it", bad=True)
            return False
        try:
            self.call = await self._stack.orchestrator.place_call(
                loaded.agent, pool=loaded.pool, deadline_ms=_DEADLINE_MS
            )
        except CallRefused as refused:
            self._screen.note(f"the call was not taken: {refused.reason}", bad=True)
            return False
        self._watching = asyncio.create_task(self._show(self.call))
        return True

    async def _show(self, call: LocalCall) -> None:
        transcriber = Transcriber()
        async for happening in call.subscribe():
            for item in transcriber.take(happening):
                self._screen.happened(item)
                if isinstance(item, CallOver):
                    return

    async def hang_up(self) -> bool:
        """Hang up, and show that; return whether there was a call."""
        if self.call is None or self.call.over:
            return False
        await self.call.hang_up()
        if self._watching is not None:
            await self._watching
        return True

    async def say(self, text: str) -> bool:
        """Say something as the caller; return whether there was a call to say it on."""
        if self.call is None or self.call.over:
            return False
        with suppress(CallOverError):
            await self.call.user(text)
            return True
        return False

    async def cut_in(self) -> None:
        """Interrupt the agent."""
        if self.call is not None:
            with suppress(CallOverError, TimeoutError):
                await self.call.barge_in()

    # ----------------------------------------------------------------------------------------------------- looking at

    async def show_log(self) -> None:
        """Show the log of the call, or of the last one."""
        if self.call is None:
            self._screen.note("there was no call yet")
            return
        records = await call_log.read_call(self._stack.log, self._stack.subjects, self.call.session_id)
        shown = call_log.rows(records)
        self._screen.show(call_log.table(shown), call_log.as_json(shown))

    async def show_metrics(self) -> None:
        """Show the metrics of the call, or of the last one."""
        if self.call is None:
            self._screen.note("there was no call yet")
            return
        records = await call_log.read_call(self._stack.log, self._stack.subjects, self.call.session_id)
        metrics = figures.call_metrics(records, time.time())
        self._screen.show(figures.metrics_lines(metrics), figures.metrics_json(metrics))

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
