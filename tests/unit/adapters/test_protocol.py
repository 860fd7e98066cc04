"""What may be a dialog adapter, and what one is told that may not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest

from unpod.adapters import DialogAdapter, EchoAdapter, ScriptedAdapter, check_adapter


class Brain:
    async def stream(self, text: str) -> AsyncIterator[str]:
        yield text

    async def turn(self, text: str) -> str:
        return text

    def assist(self, text: str) -> None:
        """Take no notice."""


class OnlyTurn:
    async def turn(self, text: str) -> str:
        return text


class NoCallables(Brain):
    stream = None  # type: ignore[assignment]  # what is tested


class WithoutAssist(OnlyTurn):
    async def stream(self, text: str) -> AsyncIterator[str]:
        yield text


class RestoreIsData(Brain):
    restore = ("history",)


class AsyncIsComplete(Brain):
    async def is_complete(self) -> bool:
        return True


class WantsMore(Brain):
    async def stream(self, text: str, session: object) -> AsyncIterator[str]:  # type: ignore[override]  # what is tested
        yield text


class TakesNothing(Brain):
    async def stream(self) -> AsyncIterator[str]:  # type: ignore[override]  # what is tested
        yield ""


def test_the_protocol_can_be_asked_at_run_time() -> None:
    assert isinstance(Brain(), DialogAdapter)
    assert not isinstance(OnlyTurn(), DialogAdapter)


def test_any_shape_of_stream_fits_the_type() -> None:
    class AllOptions(Brain):
        async def stream(self, text: str, *, context: Mapping[str, object], language: str | None) -> AsyncIterator[str]:  # type: ignore[override]
            yield text

    class Coroutine(OnlyTurn):
        async def stream(self, utterance: str, context: dict[str, object] | None = None) -> AsyncIterator[object]:
            return Brain().stream(utterance)

        async def assist(self, note: str) -> None:
            """Take no notice."""

    adapters: list[DialogAdapter] = [Brain(), AllOptions(), Coroutine(), EchoAdapter(), ScriptedAdapter([])]
    assert [check_adapter(adapter).adapter for adapter in adapters] == adapters


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (
            OnlyTurn(),
            r"OnlyTurn has no stream\(\) and no assist\(\); `async def stream\(self, text\)` yields .*; `def assist",
        ),
        (WithoutAssist(), r"WithoutAssist has no assist\(\); `def assist\(self, text\)` takes a note"),
        (NoCallables(), r"NoCallables has no stream\(\); "),
        (Brain, r"Brain is a class; assign an instance of it, such as Brain\(\)"),
        (None, r"NoneType has no stream\(\) and no turn\(\) and no assist\(\); "),
        (lambda text: text, r"function has no stream\(\)"),
        (RestoreIsData(), r"RestoreIsData\.restore is not a method"),
        (AsyncIsComplete(), r"AsyncIsComplete\.is_complete must not be async"),
        (
            WantsMore(),
            r"WantsMore\.stream\(\) cannot be called: missing a required argument: 'session'; it gets the text",
        ),
        (TakesNothing(), r"TakesNothing\.stream.* too many positional arguments"),
    ],
)
def test_what_is_no_adapter_is_told_why(adapter: object, problem: str) -> None:
    with pytest.raises(TypeError, match=rf"^dialog_machine: {problem}"):
        check_adapter(adapter)
