"""What the image runs: unpod built from the files that it gets, its health check, its callers."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.integration.consumers.http_server import Quiet, served
from tests.integration.consumers.process import free_port
from tests.pages import ROOT

from unpod_cli.demo.run import AGENT_FILE
from unpod_cli.stack import Stack

pytestmark = pytest.mark.integration

FOLDER = ROOT / "compose"


def copied(directory: Path) -> None:
    """Fill a directory as the COPY lines of the first stage do."""
    stage = (FOLDER / "Dockerfile").read_text().split("\nFROM ")[1]
    for sources, target in re.findall(r"^COPY (.*) (\S+)$", stage, re.MULTILINE):
        for source in sources.split():
            there = directory / (source if target == "./" else target)
            there.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, there)


@pytest.mark.slow
def test_the_files_that_the_image_gets_are_enough_to_build_unpod(tmp_path: Path) -> None:
    copied(tmp_path / "src")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
            *("--wheel-dir", str(tmp_path), str(tmp_path / "src")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packages = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"unpod", "unpod_bridge", "unpod_cli", "unpod_consumers", "unpod_orchestrator"} <= packages


# -------------------------------------------------------------------------------------------------------------- health


def health(**settings: str) -> int:
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run([sys.executable, str(FOLDER / "healthy.py")], env=environment, check=False).returncode


class Answers(Quiet, BaseHTTPRequestHandler):
    """200 for /metrics, 503 for all else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 503)
        self.end_headers()


def test_the_health_check_says_what_the_process_says() -> None:
    with served(Answers) as port:
        assert health(OTEL_EXPORTER_PROMETHEUS_PORT=str(port)) == 0
        assert health(UNPOD_HEALTH_PORT=str(port)) == 1
    assert health(OTEL_EXPORTER_PROMETHEUS_PORT=str(free_port())) == 1
    assert health() == 0


# ------------------------------------------------------------------------------------------------------------- callers


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["pizzeria", "other"])
async def test_the_callers_place_calls_that_are_taken(agent: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.py"
    file.write_text(AGENT_FILE.read_text().replace('agent_id="pizzeria"', f'agent_id="{agent}"'))
    async with Stack(tmp_path / "data", speed=50, said=lambda _, __: None) as stack:
        running = await stack.start_agent(str(file), "agent")
        await stack.serving(running)
        callers = await asyncio.create_subprocess_exec(
            *(sys.executable, str(FOLDER / "load.py"), "--url", stack.orchestrator.http_url, "--agent", agent),
            *("--key", stack._key, "--speed", "50", "--calls", "6", "--calls-per-minute", "3000"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await callers.communicate()
        assert (callers.returncode, out.decode()) == (0, "6 calls placed, 0 refused\n")
        calls = stack.orchestrator.calls
        await asyncio.gather(*(call.ended(20) for call in calls))
        assert len(calls) == 6
        assert not [call.violations for call in calls if call.violations]
        await running.stop(5.0)
