"""What a hook that raises is taken for."""

import pytest

from unpod.core.decision import FireHooks
from unpod.core.events import HookFailed
from unpod.errors import Fenced
from unpod.session.hook_runner import HookRunner
from unpod.session.hooks import Hooks


@pytest.mark.parametrize(
    ("error", "reported"), [(Fenced("a newer owner has been appointed"), 0), (ValueError("no such order"), 1)]
)
async def test_that_its_step_was_overtaken_is_no_failure_of_a_hook(
    error: Exception, reported: int, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    facts: list[HookFailed] = []

    @hooks.on("user_turn")
    async def pay(_: str) -> None:
        raise error

    runner = HookRunner("session-1", hooks, lambda fact, cause: facts.append(fact), lambda: False)
    await runner.run(FireHooks("user_turn", ("pay",)), cause="c", timeout_s=1.0, returned=lambda: None)
    assert len(facts) == caplog.text.count("raised") == reported
