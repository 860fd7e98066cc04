"""Run the tests near our dependencies with the oldest and the newest versions that pyproject.toml allows.

`make versions`: one line for each package and version. What fails is shown, and fails nothing else: the newest release
of somebody else's package is not in our hands. Without a registry it says so in one line.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
NEAR: Final = {
    "openai": ("tests/unit/adapters/test_openai.py", "tests/unit/adapters/test_chat_wires.py"),
    "anthropic": ("tests/unit/adapters/test_anthropic.py",),
    "mcp": ("tests/unit/adapters/test_mcp.py",),
    "langchain-core": ("tests/unit/adapters/test_langchain.py",),
    "nats-py": ("tests/integration/jetstream/test_connection.py", "tests/integration/jetstream/test_pull.py"),
}
"""The packages, and the tests that say whether a version of them works."""
RESOLUTIONS: Final = {"oldest": "lowest-direct", "newest": "highest"}
EXTRAS: Final = "embedded,dev,anthropic,langchain,langgraph,mcp,openai"
INSTALL_S: Final = 120.0
TESTS_S: Final = 90.0
"""For both environments, side by side; what a busy machine does not reach by then is said to be not reached."""
_UNREACHABLE: Final = re.compile(
    r"failed to fetch|error sending request|no matching distribution|connection|timed? ?out|dns", re.IGNORECASE
)

_OUTCOME: Final = re.compile(r"^(\S+\.py)::(.+?) (PASSED|FAILED|ERROR)", re.MULTILINE)


class NoRegistry(Exception):  # noqa: N818 - a fact
    """There is nothing to install from."""


@dataclass
class Run:
    """The tests in one environment."""

    name: str
    environment: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> Path:
        """What pytest says."""
        return self.environment / "output"

    def lines(self, seconds: float) -> list[str]:
        """Wait for the tests, so long at most, and return a line for each package."""
        is_late = False
        try:
            self.process.wait(max(1.0, self.began + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            is_late = True
            self.process.kill()
            self.process.wait()
        outcomes = _OUTCOME.findall(self.output.read_text(errors="replace"))
        reached = [package for package, paths in NEAR.items() if any(path in paths for path, _, _ in outcomes)]
        lines: list[str] = []
        for package, paths in NEAR.items():
            own = [(test, outcome) for path, test, outcome in outcomes if path in paths]
            passed = sum(outcome == "PASSED" for _, outcome in own)
            failed = [test for test, outcome in own if outcome in {"FAILED", "ERROR"}]
            said = f"FAILED: {', '.join(failed)}" if failed else f"{passed} passed"
            if not own:
                said = "not reached" if is_late else f"FAILED: no test was run; see {self.output}"
            elif is_late and package == reached[-1]:
                said += f", not done after {seconds:.0f} s"
            lines.append(f"{self.name} {package} {self._version_of(package)}: {said}")
        return lines

    def _version_of(self, package: str) -> str:
        names = "*/site-packages/{}-*.dist-info".format(package.replace("-", "_"))
        found = next((self.environment / "lib").glob(names), None)
        return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else "?"


def _uv(folder: Path, version: str) -> Path:
    uv = folder / "uv" / "bin" / "uv"
    if not uv.exists():
        _install([sys.executable, "-m", "venv", "--clear", str(folder / "uv")])
        pip = [str(folder / "uv" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _install([*pip, "install", "--retries=0", "--timeout=10", f"uv=={version}"])
    return uv


def _install(command: list[str]) -> None:
    """Run a command that installs.

    Raises:
        NoRegistry: it could reach none.
        subprocess.CalledProcessError: it failed for another reason.
    """
    environment = {**os.environ, "UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "0"}
    try:
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise NoRegistry from None
    except subprocess.CalledProcessError as error:
        if _UNREACHABLE.search(error.stderr.decode(errors="replace")):
            raise NoRegistry from None
        raise


def _begin(name: str, resolution: str, uv: Path, folder: Path) -> Run:
    environment = folder / name
    python = str(environment / "bin" / "python")
    _install([str(uv), "venv", "--quiet", "--no-config", "--clear", "--python", sys.executable, str(environment)])
    pip = [str(uv), "pip", "install", "--quiet", "--no-config", "--python", python, "--resolution", resolution]
    _install([*pip, "--group", "versions", "--editable", f".[{EXTRAS}]"])
    paths = [path for paths in NEAR.values() for path in paths]
    pytest = [python, "-u", "-m", "pytest", "-v", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    with (environment / "output").open("wb") as output:
        return Run(name, environment, subprocess.Popen([*pytest, *paths], cwd=ROOT, stdout=output, stderr=output))


def main() -> int:
    """Print the lines; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv-version", required=True)
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-versions")
    parser.add_argument("--seconds", type=float, default=TESTS_S, help="how long the tests may take")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    try:
        uv = _uv(given.folder, given.uv_version)
        runs = [_begin(name, resolution, uv, given.folder) for name, resolution in RESOLUTIONS.items()]
    except NoRegistry:
        sys.stdout.write("versions: skipped: no registry\n")
        return 0
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"versions: FAILED to install: {error.stderr.decode(errors='replace').strip()}\n")
        return 1
    lines = [line for run in runs for line in run.lines(given.seconds)]
    sys.stdout.write("".join(f"versions: {line}\n" for line in lines))
    return int(any("FAILED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
