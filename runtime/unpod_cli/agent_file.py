"""The user's agent: found in a file or a module, with one line that says what is wrong where it is not."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from unpod.errors import UnpodError
from unpod.runner.runner import AgentRunner

if TYPE_CHECKING:
    from collections.abc import Coroutine

_NAMED: Final = re.compile(r"(?P<path>.+):(?P<name>[^\W\d]\w*)\Z")
_USUAL: Final = "handle_call"
_SHOWN: Final = 6


class AgentProblem(Exception):  # noqa: N818 - what is wrong with the user's file
    """The agent cannot be used; the text is one line that says where and why."""


class _Started(BaseException):
    """Raised where a runner would be started on import; not an Exception, so that user code lets it by."""

    def __init__(self, runner: AgentRunner) -> None:
        super().__init__("a runner was started on import")
        self.runner = runner


def split_target(target: str) -> tuple[Path, str]:
    """Return the file and the name ("" for none) that `AGENT.py` or `AGENT.py:NAME` says."""
    match = _NAMED.match(target)
    if match is None or Path(target).exists():
        return Path(target), ""
    return Path(match["path"]), match["name"]


def check_file(path: Path) -> None:
    """Make sure that there is such a file and that it is Python; it is not run.

    Raises:
        AgentProblem: it is not.
    """
    shown = readable(path)
    if path.is_dir():
        raise AgentProblem(f"{shown} is a folder: give the agent's file, such as {shown.rstrip('/')}/agent.py")
    if not path.exists():
        beside = path.with_name(path.name + ".py")
        hint = f"did you mean {readable(beside)}?" if beside.exists() else "give the path of the agent's Python file"
        raise AgentProblem(f"there is no file {shown}: {hint}")
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise AgentProblem(f"{shown} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise AgentProblem(_told(error, path)) from None


def load_agent(path: Path, name: str = "") -> AgentRunner:
    """Import an agent's file and return its runner, or one around its only entrypoint; nothing is started.

    Raises:
        AgentProblem: it does not import, or what it defines is not one agent.
    """
    check_file(path)
    path = path.absolute()
    module_name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else "__agent__"
    loader = SourceFileLoader(module_name, str(path))
    spec = spec_from_loader(module_name, loader)
    assert spec is not None  # noqa: S101 - it is None only without a loader
    module = module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as `python AGENT.py` does
    sys.modules[module_name] = module
    try:
        with _starts_caught():
            loader.exec_module(module)
    except _Started as started:
        return started.runner
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is told
        raise AgentProblem(_told(error, path)) from None
    return _chosen(module, name, readable(path), path.stem)


def load_runner(target: str) -> AgentRunner:
    """Import `MODULE:RUNNER` and return the runner; nothing is started.

    Raises:
        AgentProblem: there is no such module or runner, or it does not import.
    """
    module_name, _, name = target.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        stem = module_name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise AgentProblem(f"{module_name} is a file: give its module, as in `unpod run {stem}:{name or 'runner'}`")
    if not module_name or not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise AgentProblem(f"{target!r} is not MODULE:RUNNER: give both, as in `unpod run myapp.agents:runner`")
    try:
        with _starts_caught():
            module = importlib.import_module(module_name)
    except _Started:
        raise AgentProblem(
            f'{module_name} starts a runner when it is imported: put that under `if __name__ == "__main__":`'
        ) from None
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise AgentProblem(f"there is no module {module_name}: run this in the folder that has it") from None
        raise AgentProblem(_told(error, Path(module_name))) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the user's code raises is told
        raise AgentProblem(_told(error, Path(module_name))) from None
    return _runner_named(module, name)


def local_files(folder: Path) -> set[Path]:
    """Return the source files under `folder` that have been imported, installed packages left out."""
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file).is_relative_to(folder) and "site-packages" not in file:
            found.add(Path(file))
    return found


def readable(path: Path) -> str:
    """Return a path as one would type it here."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


# --- which of what is there -------------------------------------------------------------------------------------------


def _chosen(module: ModuleType, name: str, shown: str, agent_id: str) -> AgentRunner:
    runners = _runners(module)
    entrypoints = _entrypoints(module)
    if name:
        return _named(module, name, shown, agent_id, [*runners, *entrypoints])
    if len({id(runner) for runner in runners.values()}) == 1:
        return next(iter(runners.values()))
    if runners:
        raise AgentProblem(f"{shown} has {len(runners)} agents: {_choice(shown, runners)}")
    if _USUAL in entrypoints:
        return AgentRunner(entrypoints[_USUAL], agent_id=agent_id)
    if len(entrypoints) == 1:
        return AgentRunner(next(iter(entrypoints.values())), agent_id=agent_id)
    if entrypoints:
        raise AgentProblem(f"{shown} has {len(entrypoints)} possible entrypoints: {_choice(shown, entrypoints)}")
    raise AgentProblem(
        f"{shown} defines no agent: add `async def {_USUAL}(ctx)`, or `runner = AgentRunner(...)` at its top level"
    )


def _named(module: ModuleType, name: str, shown: str, agent_id: str, others: list[str]) -> AgentRunner:
    thing: object = getattr(module, name, None)
    if isinstance(thing, AgentRunner):
        return thing
    if inspect.iscoroutinefunction(thing):
        return AgentRunner(thing, agent_id=agent_id)
    there = f"it has {', '.join(others[:_SHOWN])}" if others else "it defines none at its top level"
    raise AgentProblem(f"{shown} has no agent {name}: {there}")


def _runner_named(module: ModuleType, name: str) -> AgentRunner:
    thing: object = getattr(module, name, None)
    if isinstance(thing, AgentRunner):
        return thing
    runners = ", ".join(list(_runners(module))[:_SHOWN])
    there = f"it has {runners}" if runners else f"define it there: {name} = AgentRunner(...)"
    what = "is not an AgentRunner" if hasattr(module, name) else "is not there"
    raise AgentProblem(f"{name} {what} in {module.__name__}: {there}")


def _runners(module: ModuleType) -> dict[str, AgentRunner]:
    return {name: thing for name, thing in vars(module).items() if isinstance(thing, AgentRunner)}


def _entrypoints(module: ModuleType) -> dict[str, Callable[..., Coroutine[object, object, object]]]:
    return {
        name: thing
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and inspect.iscoroutinefunction(thing)
        and thing.__module__ == module.__name__
        and _takes_a_call(thing)
    }


def _takes_a_call(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        return False
    return True


def _choice(shown: str, names: Mapping[str, object]) -> str:
    listed = list(names)
    more = " and more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}; choose one, as in `unpod dev {shown}:{listed[0]}`"


# --- what went wrong --------------------------------------------------------------------------------------------------


def _told(error: BaseException, path: Path) -> str:
    """Return one line: the place in the user's own code, the kind of error, what it says."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        where, text = f"{readable(Path(error.filename))}:{error.lineno or 0}", error.msg
    else:
        where = _place(error, path)
    if isinstance(error, SystemExit):
        said = text if isinstance(error.code, str) else "it ends the process when it is imported (SystemExit)"
        return f"{where}: {said}"
    said = f"{where}: {type(error).__name__}: {text}" if text else f"{where}: {type(error).__name__}"
    if isinstance(error, UnpodError):
        said = f"{where}: {text}"
    if isinstance(error, ModuleNotFoundError):
        said += f"; install it for {readable(Path(sys.executable))}, or mend the import"
    return said


def _place(error: BaseException, path: Path) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(path.parent.absolute())]
    own = [frame for frame in own if "site-packages" not in frame.filename]
    return f"{readable(Path(own[-1].filename))}:{own[-1].lineno}" if own else readable(path)


@contextmanager
def _starts_caught() -> Iterator[None]:
    """While inside, starting a runner raises `_Started`: importing a file must not serve calls."""

    def caught(runner: AgentRunner) -> None:
        raise _Started(runner)

    kept = {name: getattr(AgentRunner, name) for name in ("start", "run")}
    for name in kept:
        setattr(AgentRunner, name, caught)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(AgentRunner, name, method)
