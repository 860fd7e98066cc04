"""The streams, as data."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.integration.jetstream.servers import msg_id

from unpod.errors import ConfigurationError
from unpod.jetstream import check, connect, ensure, open_log, topology
from unpod.jetstream.topology import MIB, info

if TYPE_CHECKING:
    from unpod.jetstream import EmbeddedServer, Nats


async def test_what_is_missing_is_created_as_it_must_be(nats: Nats) -> None:
    streams = topology(max_bytes=64 * MIB)
    assert await check(nats, streams.calls, streams.jobs) == ["UNPOD_CALLS: missing", "KV_UNPOD_JOBS: missing"]
    await ensure(nats, streams.calls, streams.jobs)
    assert await check(nats, streams.calls, streams.jobs) == []
    found = await info(nats, "UNPOD_CALLS")
    assert found is not None
    config = found["config"]
    assert config["subjects"] == ["unpod.call.>"]
    assert (config["discard"], config["storage"], config["allow_direct"]) == ("new", "file", True)
    assert (config["deny_delete"], config["deny_purge"]) == (True, False)
    assert config["max_age"] == 7 * 86_400 * 10**9
    assert config["duplicate_window"] >= 300 * 10**9


async def test_what_is_there_is_never_changed(nats: Nats) -> None:
    spec = topology(max_bytes=64 * MIB).calls
    await ensure(nats, spec)
    wanted = replace(spec, max_bytes=32 * MIB, max_age_s=3600)
    await ensure(nats, wanted)
    lines = await check(nats, wanted)
    assert lines == [
        f"UNPOD_CALLS: max_bytes is {64 * MIB}, expected {32 * MIB}",
        f"UNPOD_CALLS: max_age is {7 * 86_400 * 10**9}, expected {3600 * 10**9}",
    ]
    log = await open_log(nats, wanted)
    assert log.spec.max_bytes == 64 * MIB  # what is there counts


async def test_many_create_it_at_once(embedded: EmbeddedServer) -> None:
    async def one() -> None:
        async with connect(embedded.connection()) as nats:
            await ensure(nats, topology(max_bytes=64 * MIB).calls)

    await asyncio.gather(*(one() for _ in range(5)))


async def test_no_room_is_told(nats: Nats) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_CALLS cannot be created"):
        await ensure(nats, topology(max_bytes=1024 * 1024 * MIB).calls)


async def test_two_prefixes_share_a_server(nats: Nats) -> None:
    one, two = topology("staging", max_bytes=16 * MIB), topology("a.b", max_bytes=16 * MIB)
    await ensure(nats, one.calls, one.jobs, two.calls, two.jobs)
    assert (one.calls.name, one.bucket, two.calls.name) == ("STAGING_CALLS", "STAGING_JOBS", "A--B_CALLS")
    log = await open_log(nats, two.calls)
    await log.append("a.b.call.x.y.cmd", b"", msg_id("1"))
    assert await (await open_log(nats, one.calls)).last("a.b.call.x.y.cmd") is None


def test_prefixes_have_names_of_their_own() -> None:
    prefixes = ["unpod", "a.b", "a_b", "a-b", "a.b-c", "a-b.c", "ab"]
    assert len({topology(prefix).calls.name for prefix in prefixes}) == len(prefixes)


@pytest.mark.parametrize("prefix", ["", ".", "a.", "a b", "a.*", ">", "a\r\nb", "ä", "Unpod", "a--b"])
def test_a_prefix_that_cannot_be(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="UNPOD_SUBJECT_PREFIX"):
        topology(prefix)


async def test_nats_kv_can_read_the_bucket(nats: Nats) -> None:
    # What the KV clients of other languages look for in a bucket's stream.
    streams = topology(max_bytes=64 * MIB)
    await ensure(nats, streams.jobs)
    found = json.loads((await nats.request("$JS.API.STREAM.INFO.KV_UNPOD_JOBS", b"", timeout_s=5)).data)
    config = found["config"]
    assert config["subjects"] == ["$KV.UNPOD_JOBS.>"]
    assert (config["max_msgs_per_subject"], config["allow_rollup_hdrs"], config["discard"]) == (1, True, "new")
