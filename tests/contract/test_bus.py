"""What every `Bus` does, and what of the log is seen on its live tail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import until
from tests.contract.test_event_log import CMD, OWN, msg_id, read

from unpod.errors import Fenced, LogUnavailable, NoResponders, ProtocolViolation, RecordTooLarge
from unpod.ports import Bus, Fence, Message

if TYPE_CHECKING:
    from tests.contract.places import Client, Place


class Heard:
    """Keeps what a subscription hears."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._more = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._more.set()

    async def until(self, count: int) -> list[bytes]:
        async with asyncio.timeout(15):
            while len(self.messages) < count:
                self._more.clear()
                await self._more.wait()
        return [message.data for message in self.messages]


async def test_it_is_a_bus(client: Client) -> None:
    assert isinstance(client.bus, Bus)


async def test_messages_arrive_in_the_order_of_publishing(place: Place) -> None:
    one, two = await place.client(), await place.client()
    heard = Heard()
    await two.bus.subscribe("unpod.live.a.s.>", heard)
    for n in range(300):
        await one.bus.publish("unpod.live.a.s.delta", b"%d" % n, {"n": str(n)})
    assert await heard.until(300) == [b"%d" % n for n in range(300)]
    assert heard.messages[7].subject == "unpod.live.a.s.delta"
    assert dict(heard.messages[7].headers) == {"n": "7"}
    assert heard.messages[7].seq == 0


async def test_wildcards_choose(client: Client) -> None:
    star, rest = Heard(), Heard()
    await client.bus.subscribe("unpod.live.*.s.x", star)
    await client.bus.subscribe("unpod.live.a.>", rest)
    for subject in ("unpod.live.a.s.x", "unpod.live.b.s.x", "unpod.live.a.t", "unpod.live.a"):
        await client.bus.publish(subject, subject.encode())
    assert await star.until(2) == [b"unpod.live.a.s.x", b"unpod.live.b.s.x"]
    assert await rest.until(2) == [b"unpod.live.a.s.x", b"unpod.live.a.t"]


async def test_one_of_a_queue_group_gets_it(place: Place) -> None:
    members = [Heard() for _ in range(3)]
    for heard in members:
        await (await place.client()).bus.subscribe("unpod.dispatch.a", heard, queue="runners")
    other = Heard()
    sender = await place.client()
    await sender.bus.subscribe("unpod.dispatch.a", other)
    for n in range(60):
        await sender.bus.publish("unpod.dispatch.a", b"%d" % n)
    await other.until(60)
    await until(lambda: sum(len(heard.messages) for heard in members) >= 60)
    assert sum(len(heard.messages) for heard in members) == 60
    assert all(heard.messages for heard in members)


async def test_a_closed_subscription_hears_nothing(client: Client) -> None:
    heard, still = Heard(), Heard()
    subscription = await client.bus.subscribe("unpod.live.x", heard)
    await client.bus.subscribe("unpod.live.x", still)
    await client.bus.publish("unpod.live.x", b"1")
    await heard.until(1)
    await subscription.close()
    await subscription.close()
    await client.bus.publish("unpod.live.x", b"2")
    await still.until(2)
    assert len(heard.messages) == 1


async def test_several_subjects_are_subscribed_to_at_once(place: Place) -> None:
    one, two = await place.client(), await place.client()
    first, second = Heard(), Heard()
    both = await one.bus.subscribe_all({"unpod.live.a.>": first, "unpod.call.a": second})
    for subject in ("unpod.live.a.x", "unpod.call.a", "unpod.live.a.y"):
        await two.bus.publish(subject, subject.encode())
    assert await first.until(2) == [b"unpod.live.a.x", b"unpod.live.a.y"]
    assert await second.until(1) == [b"unpod.call.a"]
    await both[0].close()
    await two.bus.publish("unpod.live.a.z", b"")
    await two.bus.publish("unpod.call.a", b"2")
    await second.until(2)
    assert len(first.messages) == 2


async def test_where_one_of_several_subjects_cannot_be_subscribed_to_none_is(place: Place) -> None:
    one, two = await place.client(), await place.client()
    heard, other = Heard(), Heard()
    with pytest.raises(ProtocolViolation):
        await one.bus.subscribe_all({"unpod.live.a": heard, "not a subject": heard})
    await one.bus.subscribe("unpod.live.a", other)
    await two.bus.publish("unpod.live.a", b"1")
    await other.until(1)
    assert heard.messages == []


async def test_a_request_is_answered(place: Place) -> None:
    asker, other = await place.client(), await place.client()
    answers: set[asyncio.Task[None]] = set()

    def answer(message: Message) -> None:
        answers.add(asyncio.ensure_future(other.bus.publish(message.reply, message.data.upper())))

    await other.bus.subscribe("unpod.dispatch.a", answer, queue="runners")
    got = await asker.bus.request("unpod.dispatch.a", b"who", timeout_s=2)
    assert got.data == b"WHO"
    await asyncio.gather(*answers)


async def test_nobody_listens(client: Client) -> None:
    with pytest.raises(NoResponders):
        await client.bus.request("unpod.dispatch.nobody", b"", timeout_s=2)


async def test_no_answer_in_time(place: Place) -> None:
    asker, other = await place.client(), await place.client()
    await other.bus.subscribe("unpod.dispatch.a", Heard())
    with pytest.raises(LogUnavailable):
        await asker.bus.request("unpod.dispatch.a", b"", timeout_s=0.05)


async def test_the_tail_shows_what_is_appended(place: Place) -> None:
    writer, reader = await place.client(), await place.client()
    heard = Heard()
    await reader.bus.subscribe("unpod.call.*.s.>", heard)
    await writer.log.append(CMD, b"x", {"Nats-Msg-Id": "1", "ce-type": "y"})
    assert await heard.until(1) == [b"x"]
    assert heard.messages[0].headers["ce-type"] == "y"


async def test_the_tail_shows_a_refused_append_too(place: Place) -> None:
    # As in NATS: whoever reads the tail must not believe an `own` that it sees there.
    writer, reader = await place.client(), await place.client()
    heard = Heard()
    await reader.bus.subscribe(OWN, heard)
    await writer.log.append(OWN, b"first", msg_id("1"), fence=Fence(OWN, 0))
    with pytest.raises(Fenced):
        await writer.log.append(OWN, b"second", msg_id("2"), fence=Fence(OWN, 0))
    assert await heard.until(2) == [b"first", b"second"]
    assert len(await read(reader.log)) == 1


async def test_a_publish_on_the_logs_subjects_is_stored(client: Client) -> None:
    ack = await client.bus.request("unpod.call.a.s.ctl", b"x", timeout_s=2)
    assert b'"seq"' in ack.data
    assert [message.data for message in await read(client.log)] == [b"x"]


async def test_too_large_is_refused_and_the_connection_stays(client: Client) -> None:
    heard = Heard()
    await client.bus.subscribe("unpod.live.x", heard)
    with pytest.raises(RecordTooLarge):
        await client.bus.publish("unpod.live.x", b"x" * (1024 * 1024), {"a": "b"})
    await client.bus.publish("unpod.live.x", b"small")
    assert await heard.until(1) == [b"small"]


async def _publish_forever(bus: Bus) -> None:
    while True:
        await bus.publish("unpod.live.x", b"never")
        await asyncio.sleep(0)


async def test_what_cannot_be_sent_now_is_never_sent(place: Place, client: Client) -> None:
    heard = Heard()
    await client.bus.subscribe("unpod.live.x", heard)
    await client.bus.publish("unpod.live.x", b"before")
    await heard.until(1)
    async with place.outage():
        # Until the loss is noticed, a publish goes to the socket, and dies with it.
        with pytest.raises(LogUnavailable):
            await _publish_forever(client.bus)
    await client.log.append(CMD, b"", msg_id("1"), timeout_s=10)  # the connection is back
    await client.bus.publish("unpod.live.x", b"after")
    assert await heard.until(2) == [b"before", b"after"]
