"""What users of the Unpod SDK import, and where its settings may stand."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import unpod
from unpod import AsyncClient
from unpod.dot_env import environment
from unpod.runner.config import read_config


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("unpod.models.session", "RunnerStats"),
        ("unpod.models.session", "CallMetrics"),
        ("unpod.connectivity", "AgentRunner"),
        ("unpod.connectivity", "CallContext"),
        ("unpod.connectivity", "Session"),
        ("unpod.connectivity", "MetricsTracker"),
        ("unpod.adapters.base", "DialogAdapter"),
    ],
)
def test_the_import_paths_of_the_unpod_sdk(module: str, name: str) -> None:
    assert getattr(import_module(module), name) is getattr(unpod, name)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("UNPOD_API_KEY", "UNPOD_PLATFORM_TOKEN", "UNPOD_NATS_URL", "NATS_URL", "NATS_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_a_key_that_stands_only_in_the_file_is_found(directory: Path) -> None:
    (directory / ".env").write_text("# ours\nexport UNPOD_API_KEY='sk_file'\nEMPTY\n")
    assert read_config().bridge_environment["UNPOD_API_KEY"] == "sk_file"
    async with AsyncClient() as client:
        assert client.sessions is not None


def test_a_variable_wins_over_the_file_which_changes_none(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / ".env").write_text("UNPOD_API_KEY=sk_file\nUNPOD_DATA_DIR=there\n")
    monkeypatch.setenv("UNPOD_API_KEY", "sk_set")
    found = environment()
    assert (found["UNPOD_API_KEY"], found["UNPOD_DATA_DIR"]) == ("sk_set", "there")
    assert read_config().data_dir == Path("there")
    monkeypatch.delenv("UNPOD_API_KEY")
    (directory / ".env").unlink()
    assert "UNPOD_API_KEY" not in environment()
