"""The streams, as data."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.integration.jetstream.servers import msg_id

from unpod.errors import ConfigurationError
from unpod.jetstream import StreamSettings, connect, differences, ensure, open_log, stream_settings, topology
from unpod.jetstream.streams.api import call
from unpod.jetstream.streams.topology import MIB, info

if TYPE_CHECKING:
    from unpod.jetstream import Nats
    from unpod.processes import EmbeddedServer


async def test_what_is_missing_is_created_as_it_must_be(nats: Nats) -> None:
    streams = topology(max_bytes=64 * MIB)
    missing = await differences(nats, StreamSettings(), streams.calls, streams.jobs)
    assert [str(each) for each in missing] == ["UNPOD_CALLS: missing", "KV_UNPOD_JOBS: missing"]
    assert {each.fix for each in missing} == {"unpod streams init"}
    await ensure(nats, streams.calls, streams.jobs)
    assert await differences(nats, StreamSettings(), streams.calls, streams.jobs) == []
    found = await info(nats, "UNPOD_CALLS")
    assert found is not None
    config = found["config"]
    assert config["subjects"] == ["unpod.call.>"]
    assert (config["discard"], config["storage"], config["allow_direct"]) == ("new", "file", True)
    assert (config["deny_delete"], config["deny_purge"]) == (False, False)
    assert config["max_age"] == 7 * 86_400 * 10**9
    assert config["duplicate_window"] >= 300 * 10**9


async def test_what_is_there_is_never_changed(nats: Nats) -> None:
    spec = topology(max_bytes=64 * MIB).calls
    await ensure(nats, spec)
    wanted = replace(spec, max_bytes=32 * MIB, max_age_s=3600)
    await ensure(nats, wanted)
    assert await differences(nats, StreamSettings(), wanted) == []  # how large it is, its operator has chosen
    (found,) = await differences(nats, StreamSettings(max_bytes=32 * MIB), wanted)
    assert str(found) == f"UNPOD_CALLS: max_bytes is {64 * MIB}, expected {32 * MIB}"
    assert found.fix == f"nats stream edit UNPOD_CALLS --max-bytes={32 * MIB}"
    log = await open_log(nats, wanted)
    assert log.spec.max_bytes == 64 * MIB  # what is there counts


async def test_what_breaks_the_rules_is_told_with_what_sets_it_right(nats: Nats) -> None:
    spec = topology(max_bytes=64 * MIB).calls
    wrong = {
        **spec.config(),
        "discard": "old",
        "max_msgs": 10,
        "duplicate_window": 10**9,
        "max_age": 0,
        "max_bytes": -1,
    }
    wrong["deny_delete"] = True
    await call(nats, f"STREAM.CREATE.{spec.name}", wrong)
    found = {each.setting: each.fix for each in await differences(nats, StreamSettings(replicas=3), spec)}
    assert found == {
        "discard": "nats stream edit UNPOD_CALLS --discard=new",
        "deny_delete": "calls go on as ever, but no record can ever be erased; the setting cannot be changed in place: "
        "once no call is in progress, `nats stream backup UNPOD_CALLS DIR`, "
        "`nats stream rm UNPOD_CALLS`, then `unpod streams init`",
        "max_bytes": f"nats stream edit UNPOD_CALLS --max-bytes={64 * MIB}",
        "num_replicas": "nats stream edit UNPOD_CALLS --replicas=3",
        "max_age": "nats stream edit UNPOD_CALLS --max-age=604800s",
        "duplicate_window": "nats stream edit UNPOD_CALLS --dupe-window=300s",
        "max_msgs": "nats stream edit UNPOD_CALLS --max-msgs=-1",
    }


async def test_many_create_it_at_once(embedded: EmbeddedServer) -> None:
    async def one() -> None:
        async with connect(embedded.connection()) as nats:
            await ensure(nats, topology(max_bytes=64 * MIB).calls)

    await asyncio.gather(*(one() for _ in range(5)))


async def test_no_room_is_told(nats: Nats) -> None:
    with pytest.raises(ConfigurationError, match=r"UNPOD_CALLS cannot be created.*UNPOD_STREAM_SIZE.*--size"):
        await ensure(nats, topology(max_bytes=1024 * 1024 * MIB).calls)
    with pytest.raises(ConfigurationError, match=r"UNPOD_CALLS cannot be created.*UNPOD_STREAM_REPLICAS.*--replicas"):
        await ensure(nats, topology(max_bytes=64 * MIB, replicas=3).calls)


def test_sizes_and_replicas_come_from_the_environment() -> None:
    found = stream_settings({"UNPOD_STREAM_SIZE": "512MiB", "UNPOD_STREAM_REPLICAS": "3"})
    assert found == StreamSettings(max_bytes=512 * MIB, replicas=3)
    streams = found.topology("unpod")
    assert (streams.calls.max_bytes, streams.jobs.max_bytes, streams.jobs.replicas) == (512 * MIB, 32 * MIB, 3)
    assert StreamSettings().topology("unpod").calls.max_bytes == 8 * 1024 * MIB


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("UNPOD_STREAM_SIZE", "much"),
        ("UNPOD_STREAM_SIZE", "-1"),
        ("UNPOD_STREAM_SIZE", "1K"),
        ("UNPOD_STREAM_REPLICAS", "2"),
    ],
)
def test_a_size_that_cannot_be(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        stream_settings({variable: text})


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
