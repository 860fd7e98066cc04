"""A whole call over a NATS server in a container, where a Docker engine of this machine answers.

The image is made here, `FROM scratch` and the one static file of nats-server: nothing is pulled. The container is in
the host's network, on loopback: an engine without a bridge is enough, and nobody else can reach the server.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import NotFound  # type: ignore[import-untyped]
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host
from testcontainers.core.image import DockerImage
from testcontainers.core.wait_strategies import LogMessageWaitStrategy
from tests.integration.bridge_stack import bridge_process
from tests.integration.runner_rig import AGENT, KEY, counted, free_port, joined, running, talks

from unpod.core.envelope import from_headers
from unpod.core.subjects import Subjects
from unpod.jetstream import NatsOptions, connect, embedded_topology, ensure, open_log
from unpod.processes.embedded import find_binary
from unpod_orchestrator import LocalOrchestrator

pytestmark = pytest.mark.docker

OWNER = "unpod.test.pid"  # a label on what a run makes: the process that removes it
DOCKERFILE = """\
FROM scratch
COPY nats-server /nats-server
ENTRYPOINT ["/nats-server"]
"""


@pytest.fixture
def engine() -> Iterator[Any]:
    """The Docker engine of this machine, without what killed runs have left there."""
    host = get_docker_host() or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        pytest.skip(f"the Docker engine is another machine ({host})")
    with socket.socket(socket.AF_UNIX) as answers:  # docker's own client leaves its socket open when nothing answers
        try:
            answers.connect(host.removeprefix("unix://"))
        except OSError as error:
            pytest.skip(f"no Docker engine answers at {host}: {error.strerror}")
    client = DockerClient(timeout=10).client
    with closing(client):
        where = client.info()
        if (where["OSType"], where["Name"]) != ("linux", socket.gethostname()):
            pytest.skip(f"the Docker engine is another machine ({where['OSType']} on {where['Name']})")
        sweep(client)
        yield client


def sweep(client: Any) -> None:  # noqa: ANN401 - docker has no types
    """Remove containers and images whose process is gone."""
    for container in client.containers.list(all=True, ignore_removed=True, filters={"label": OWNER}):
        if not Path(f"/proc/{container.labels[OWNER]}").exists():
            with suppress(NotFound):
                container.remove(force=True, v=True)
    for image in client.images.list(filters={"label": OWNER}):
        if not Path(f"/proc/{image.labels[OWNER]}").exists():
            with suppress(NotFound):
                client.images.remove(image.id, force=True)


@pytest.fixture
def nats_url(engine: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A nats-server with JetStream in a container; container and image are removed at the end."""
    # testcontainers' own reaper is an image that would have to be pulled; `sweep` does its work.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    context = tmp_path / "image"
    context.mkdir()
    shutil.copy2(find_binary(), context / "nats-server")
    (context / "Dockerfile").write_text(DOCKERFILE)
    labels = {OWNER: str(os.getpid())}
    port = free_port()
    with (
        DockerImage(context, tag=f"unpod-test-nats:{uuid.uuid4().hex}", labels=labels) as image,
        DockerContainer(str(image))
        .with_command(["--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", "/data"])
        .with_kwargs(network="host", labels=labels)
        .waiting_for(LogMessageWaitStrategy("Server is ready").with_startup_timeout(20).with_poll_interval(0.05)),
    ):
        yield f"nats://127.0.0.1:{port}"


async def test_a_call_over_a_nats_server_in_a_container(nats_url: str, tmp_path: Path) -> None:
    streams = embedded_topology()
    async with connect(NatsOptions((nats_url,))) as nats, LocalOrchestrator(speed=50) as orchestrator:
        await ensure(nats, streams.calls, streams.jobs)
        settings = {
            "UNPOD_NATS_URL": nats_url,
            "UNPOD_API_KEY": KEY,
            "UNPOD_ORCHESTRATOR_URL": orchestrator.url,
            "UNPOD_LOG_LEVEL": "error",
        }
        async with bridge_process(tmp_path / "bridge.log", **settings), running(joined(nats_url)) as runner:
            await orchestrator.wait_for_worker(AGENT, 10)
            call = await orchestrator.place_call(AGENT)
            await talks(call)
            await call.hang_up()
            await counted(runner, 1)
            assert runner.stats().completed_last_hour == 1
        log = await open_log(nats, streams.calls)
        kinds = [
            from_headers(message.headers).type
            async for message in log.read(Subjects().call(AGENT, call.session_id).all, start_seq=1)
        ]
    assert kinds[0] == "line.line.taken"
    assert {"own.owner.appointed", "evt.user.text", "ack.reply.spoken", "run.turn.completed", "evt.call.ended"} < set(
        kinds
    )
